"""The trunk: who sees whom, what is dropped at random, and that its modes compute the same."""

import pytest
import torch
from torch.testing import assert_close
from transformers import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder

from mmpt.config import component
from mmpt.tokens import Tokens
from mmpt.trunk import Trunk
from mmpt.trunk.positions import rotary_turns, sincos, sincos_2d, turn

D = 16
DRAW = torch.arange(6) * 7919 + 3


@pytest.fixture
def trunk_of(randomised):
    def make(**settings):
        settings = {"width": D, "depth": 3, "heads": 2, **settings}
        return randomised(component(Trunk, "transformer", **settings).build(2)).eval()

    return make


def tokens_of(rows=6, size=12, valid=None, segment=None, place=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, position = torch.randn(2, rows, size, D, generator=generator)
    nothing = torch.zeros(rows, size, dtype=torch.int64)
    full = valid is None and segment is None
    return Tokens(
        x,
        position,
        nothing if place is None else place,
        torch.ones(rows, size, dtype=torch.bool) if valid is None else valid,
        nothing if segment is None else segment,
        (torch.arange(size) >= size // 2).long().expand(rows, -1),
        full,
        place is not None,
    )


def row_of(tokens, row):
    return tokens._replace(**{name: getattr(tokens, name)[row : row + 1] for name in Tokens._fields[:6]})


# ---- who sees whom


def test_documents_of_a_row_do_not_see_each_other(trunk_of):
    segment = torch.tensor([0] * 5 + [1] * 4 + [2] * 3).expand(6, -1)
    trunk, tokens = trunk_of(), tokens_of(segment=segment)
    latents = trunk(tokens, DRAW).latents
    for document in range(3):
        mine = segment[0] == document
        x = tokens.x.clone()
        x[:, ~mine] = x[:, ~mine].flip(2)
        changed = trunk(tokens._replace(x=x), DRAW).latents
        assert_close(changed[:, mine], latents[:, mine], rtol=0, atol=1e-6)
        assert ((changed[:, ~mine] - latents[:, ~mine]).abs().amax(2) > 1e-3).all()


def test_a_document_in_a_row_of_several_equals_the_document_alone(trunk_of):
    segment = torch.tensor([0] * 5 + [1] * 4 + [2] * 3).expand(6, -1)
    trunk, tokens = trunk_of(), tokens_of(segment=segment)
    latents = trunk(tokens, DRAW).latents
    for document in range(3):
        mine = segment[0] == document
        alone = Tokens(*(tensor[:, mine] for tensor in tokens[:6]), full=True)
        assert_close(trunk(alone, DRAW).latents, latents[:, mine], rtol=0, atol=1e-5)


def test_every_token_of_a_document_reaches_every_other_whatever_its_stream(trunk_of):
    trunk, tokens = trunk_of(), tokens_of(rows=1)
    latents = trunk(tokens, DRAW[:1]).latents
    for place in (0, 11):
        x = tokens.x.clone()
        x[:, place] = x[:, place].flip(1)
        assert ((trunk(tokens._replace(x=x), DRAW[:1]).latents - latents).abs().amax(2) > 1e-5).all()


def test_padding_changes_no_valid_output_and_stays_finite(trunk_of):
    valid = torch.arange(12) < torch.tensor([[12], [7], [1], [0], [3], [12]])
    trunk, tokens = trunk_of(), tokens_of(valid=valid)
    x = torch.where(valid.unsqueeze(2), tokens.x, 50.0)
    latents, changed = trunk(tokens, DRAW).latents, trunk(tokens._replace(x=x), DRAW).latents
    assert torch.equal(latents[valid], changed[valid])
    assert latents.isfinite().all()
    short = Tokens(*(tensor[1:2, :7] for tensor in tokens[:6]), full=True)
    assert_close(trunk(short, DRAW[1:2]).latents[0], latents[1, :7], rtol=0, atol=1e-5)


def test_attention_without_a_mask_equals_attention_with_one(trunk_of):
    trunk, tokens = trunk_of(), tokens_of()
    with_mask = trunk(tokens._replace(full=False), DRAW).latents
    assert_close(trunk(tokens, DRAW).latents, with_mask, rtol=0, atol=1e-5)


def test_the_stream_of_a_token_matters(trunk_of):
    trunk, tokens = trunk_of(), tokens_of()
    other = tokens._replace(stream=1 - tokens.stream)
    assert (trunk(tokens, DRAW).latents - trunk(other, DRAW).latents).abs().max() > 1e-3


def test_content_and_position_are_added_and_the_entry_norm_comes_after_both(trunk_of):
    tokens = tokens_of()
    swapped = tokens._replace(x=tokens.position, position=tokens.x)
    for norm_entry in (False, True):
        trunk = trunk_of(norm_entry=norm_entry)
        assert_close(trunk(tokens, DRAW).latents, trunk(swapped, DRAW).latents, rtol=0, atol=1e-5)
        scaled = tokens._replace(x=tokens.x * 100, position=tokens.position * 100)
        embedding = trunk.stream_embedding.weight.data
        embedding.zero_()
        same = torch.allclose(trunk(scaled, DRAW).latents, trunk(tokens, DRAW).latents, atol=1e-3)
        assert same == norm_entry


def test_a_width_that_heads_do_not_divide_is_refused(trunk_of):
    with pytest.raises(ValueError, match="width 16 can't be shared by 3 heads"):
        trunk_of(heads=3)


# ---- stochastic depth


def test_drop_path_skips_whole_rows_alike_alone_and_in_a_batch(trunk_of):
    trunk, tokens = trunk_of(drop_path=0.5).train(), tokens_of()
    latents = trunk(tokens, DRAW).latents
    assert torch.equal(latents, trunk(tokens, DRAW).latents)
    for row in range(6):
        alone = trunk(row_of(tokens, row), DRAW[row : row + 1]).latents[0]
        assert_close(alone, latents[row], rtol=0, atol=1e-5)
    other = trunk(tokens, DRAW + 1).latents
    assert ((latents - other).abs().amax((1, 2)) > 1e-4).any()


def test_drop_path_rises_from_nothing_to_its_share_and_keeps_the_expectation(trunk_of):
    trunk = trunk_of(depth=2, drop_path=0.4).train()
    assert [block.drop for block in trunk.blocks] == pytest.approx([0.0, 0.4])
    draws = torch.arange(20000)
    change = torch.ones(20000, 1, D)
    for branch in ("attention", "feedforward"):
        kept = trunk.blocks[1]._kept(change, draws, branch)[:, 0, 0]
        assert_close(kept.unique(), torch.tensor([0.0, 1 / 0.6]))
        assert abs(kept.mean() - 1) < 0.03
        assert torch.equal(trunk.blocks[0]._kept(change, draws, branch), change)
    both = [trunk.blocks[1]._kept(change, draws, branch)[:, 0, 0] > 0 for branch in ("attention", "feedforward")]
    assert abs((both[0] & both[1]).double().mean() - 0.36) < 0.02  # the branches draw apart


def test_nothing_is_dropped_outside_training(trunk_of):
    plain, dropping = trunk_of(), trunk_of(drop_path=0.9)
    dropping.load_state_dict(plain.state_dict())
    tokens = tokens_of()
    assert torch.equal(plain(tokens, DRAW).latents, dropping(tokens, DRAW).latents)


# ---- modes that must not change anything


def gradients(trunk, tokens):
    trunk.zero_grad()
    output = trunk(tokens, DRAW)
    output.latents.square().sum().backward()
    return output.latents, [parameter.grad.clone() for parameter in trunk.parameters()]


@pytest.fixture(params=["full", "padded and packed", "rotary"])
def tokens(request):
    if request.param == "full":
        return tokens_of()
    segment = torch.tensor([0] * 5 + [1] * 7).expand(6, -1)
    valid = torch.arange(12) < torch.tensor([[12], [9], [6], [0], [11], [12]])
    place = torch.arange(12).expand(6, -1) if request.param == "rotary" else None
    return tokens_of(valid=valid, segment=segment, place=place)


def test_checkpointing_gives_the_same_gradients(trunk_of, tokens):
    plain, saving = (trunk_of(checkpointing=on, drop_path=0.3).train() for on in (False, True))
    for mine, theirs in zip(gradients(saving, tokens)[1], gradients(plain, tokens)[1], strict=True):
        assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_equal_eager_ones(trunk_of):
    plain, compiled = (trunk_of(compile=on, drop_path=0.3, depth=2).train() for on in (False, True))
    compiled.load_state_dict(plain.state_dict())
    for tokens in (tokens_of(), tokens_of(size=9), tokens_of(valid=torch.rand(6, 12) < 0.7)):
        (mine, mine_grads), (theirs, theirs_grads) = gradients(compiled, tokens), gradients(plain, tokens)
        assert_close(mine, theirs, rtol=0, atol=1e-5)
        for ours, other in zip(mine_grads, theirs_grads, strict=True):
            assert_close(ours, other, rtol=1e-4, atol=1e-4)


# ---- positions


def test_the_two_dimensional_table_is_that_of_transformers():
    shape = {"decoder_hidden_size": 32, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1}
    decoder = ViTMAEDecoder(ViTMAEConfig(image_size=24, patch_size=4, hidden_size=32, **shape), num_patches=36)
    decoder.initialize_weights(num_patches=36)
    table = decoder.decoder_pos_embed[0]
    assert (table[0] == 0).all()
    assert_close(sincos_2d(6, 6, 32), table[1:], rtol=0, atol=1e-6)


def test_the_two_dimensional_table_has_the_column_first_where_rows_are_fewer():
    table = sincos_2d(2, 5, 16).view(2, 5, 16)
    assert_close(table[0, :, :8], sincos(torch.arange(5.0), 8))
    assert_close(table[:, 0, 8:], sincos(torch.arange(2.0), 8))


def test_the_table_follows_the_formula():
    table = sincos(torch.arange(50.0), 6)
    for place in (0, 7, 49):
        for number in range(3):
            angle = torch.tensor(place / 10000 ** (number / 3), dtype=torch.float64)
            assert_close(table[place, number], angle.sin().float())
            assert_close(table[place, 3 + number], angle.cos().float())


def test_rotary_products_depend_on_the_distance_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator)

    def product(first, second):
        turns = [rotary_turns(torch.tensor([[place]]), 8, 10000.0) for place in (first, second)]
        return (turn(query, turns[0]) * turn(key, turns[1])).sum()

    assert_close(product(3, 1), product(42, 40), rtol=0, atol=1e-4)
    assert_close(product(0, 0), (query * key).sum())
    assert abs(product(3, 1) - product(3, 2)) > 1e-3


def test_a_rotary_trunk_sees_distances_and_not_places(trunk_of):
    trunk = trunk_of()
    place = torch.arange(12).expand(6, -1)
    here, there = (trunk(tokens_of(place=place + shift), DRAW).latents for shift in (0, 500))
    assert_close(here, there, rtol=0, atol=1e-4)
    spread = trunk(tokens_of(place=place * 2), DRAW).latents
    assert (here - spread).abs().max() > 1e-3


def test_place_zero_turns_nothing(trunk_of):
    trunk = trunk_of()
    without = tokens_of()
    turned = without._replace(rotary=True)
    assert_close(trunk(turned, DRAW).latents, trunk(without, DRAW).latents, rtol=0, atol=1e-6)
