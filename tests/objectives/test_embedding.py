"""Contrast of two views: its formula, what may be hidden, what noise depends on, and what may be cut."""

import math

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.downstream.pooling import mean_pool
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.info_nce import Rows, contrast
from mmpt.objectives.matryoshka import MatryoshkaSettings, cuts_of, divergence
from mmpt.objectives.views import kept_features, one_span
from mmpt.pools import TokenLatents
from mmpt.randomness import fold

ROWS, WIDTH, TEMPERATURE = 5, 16, 0.2


def rows_of(count, **changes):
    there = torch.ones(count, dtype=torch.bool)
    return Rows(torch.arange(count), there, there)._replace(**changes)


def vectors(count=ROWS):
    return torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(count)).unbind()


def loss(one, other, rows, *, own_side=True):
    return contrast(one, other, rows, temperature=TEMPERATURE, own_side=own_side)[0]


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    def make(*names, seed=0, **settings):
        chosen = {name: modalities[name] for name in names}
        backbone = backbone_of(chosen, depth=3)
        objective = component(Objective, "embedding", **settings).build(backbone, chosen)
        return randomised(MaskedModel(backbone, objective), seed).train()

    return make


def step_of(model, batch):
    step = model(batch, model.hide(batch, 0.0), 0.0)
    return step.losses["embedding"].total


# ---- the loss


@pytest.mark.parametrize(("own_side", "others"), [(True, 2 * ROWS - 2), (False, ROWS - 1)])
def test_identical_views_of_an_orthonormal_batch_have_the_loss_of_the_formula(own_side, others):
    unit = torch.eye(ROWS, WIDTH)
    wanted = -math.log(math.exp(1 / TEMPERATURE) / (math.exp(1 / TEMPERATURE) + others))
    assert_close(loss(unit, unit, rows_of(ROWS), own_side=own_side), torch.full((ROWS,), wanted))


@pytest.mark.parametrize("own_side", [True, False])
def test_the_loss_knows_neither_lengths_nor_the_order_of_the_views(own_side):
    one, other = vectors()
    before = loss(one, other, rows_of(ROWS), own_side=own_side)
    assert_close(loss(3 * one, 0.2 * other, rows_of(ROWS), own_side=own_side), before)
    assert_close(loss(other, one, rows_of(ROWS), own_side=own_side), before)


def test_rows_that_lack_a_view_change_nothing_and_get_no_gradient():
    one, other = (x.requires_grad_() for x in vectors())
    there = torch.tensor([True, True, False, True, True])
    each = loss(one, other, rows_of(ROWS, there=there))
    assert_close(each[there], loss(one[there], other[there], rows_of(4)))
    assert each[2] == 0
    each.sum().backward()
    assert one.grad.isfinite().all()
    assert (one.grad[2] == 0).all()


def test_a_row_that_does_not_ask_is_a_negative_of_the_others_and_has_no_loss():
    one, other = vectors()
    anchor = torch.tensor([True] * 4 + [False])
    each = loss(one, other, rows_of(ROWS, anchor=anchor))
    assert each[4] == 0
    assert_close(each[:4], loss(one, other, rows_of(ROWS))[:4])
    assert (each[:4] > loss(one[:4], other[:4], rows_of(4))).all()


def test_the_same_sample_twice_is_no_negative_of_itself():
    one, other = vectors(4)
    one, other = (torch.cat([x, x[:1]]) for x in (one, other))
    anchor = torch.tensor([True] * 4 + [False])
    each = loss(one, other, rows_of(5, uid=torch.tensor([0, 1, 2, 3, 0]), anchor=anchor))
    assert_close(each[0], loss(one[:4], other[:4], rows_of(4))[0])


# ---- views


def test_a_span_covers_its_number_of_neighbours_and_nothing_that_stands_for_no_measurement(contents):
    content = contents("text")
    maskable = content.valid & content.observed
    for seed in range(10):
        hidden = one_span(maskable, fold(torch.arange(len(maskable)), seed), length=3, shortest=6)
        assert not (hidden & ~maskable).any()
        long = maskable.sum(1) >= 6
        assert torch.equal(hidden.sum(1), torch.where(long, 3, 0))
        places = (maskable.cumsum(1) - 1)[hidden].view(-1, 3)
        assert torch.equal(places[:, 2] - places[:, 0], torch.full((int(long.sum()),), 2))
    hits = one_span(maskable[:1].expand(1000, -1), fold(torch.arange(1000), 1), length=3, shortest=6).any(0)
    assert torch.equal(hits, maskable[0])  # every place can be reached, the first and the last too


def test_noise_of_a_token_depends_on_its_own_key_alone_and_drops_its_share():
    keys = fold(torch.arange(6), "some").view(2, 3)
    kept = kept_features(keys, 1, 4000, 0.3)
    assert torch.equal(kept_features(keys[1:, 2:], 1, 4000, 0.3)[0, 0], kept[1, 2])
    assert not torch.equal(kept_features(keys, 2, 4000, 0.3), kept)
    assert abs(kept.float().mean() - 0.7) < 0.01


@pytest.mark.parametrize("name", ["text", "image", "speech", "speech_mel", "ecg", "ecg_stem", "labs"])
@pytest.mark.parametrize("corruption", ["replace", "drop"])
def test_every_modality_has_a_loss_and_every_weight_a_gradient(model_of, contents, batch_of, name, corruption):
    model = model_of(name, streams={name: {"length": 2, "shortest": 3, "corruption": corruption}})
    total = step_of(model, batch_of(**{name: contents(name)}))
    assert total.isfinite()
    assert total > 0
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_padding_changes_no_loss(model_of, text, documents, batch_of):
    model = model_of("text", noise=0.2)
    rows = [[document] for document in documents("text")[:4]]
    snug, wide = (text.collate(rows, size) for size in (None, 80))
    assert_close(step_of(model, batch_of(text=wide)), step_of(model, batch_of(text=snug)))


def test_without_noise_and_spans_both_views_are_what_encode_pools(model_of, contents, batch_of):
    model = model_of("labs", noise=0.0, streams={"labs": {"length": 2, "shortest": 10_000}}).eval()
    batch = batch_of(labs=contents("labs"))
    first, second = model.objective._views(model.backbone, batch, 0.0, cuts_of(None, 0, 3, WIDTH))
    assert torch.equal(first.vectors[None], second.vectors[None])
    content, here = batch.streams["labs"], first.there
    latents = model.backbone(batch)["labs"].x
    pooled = mean_pool(
        {"labs": TokenLatents(*(t[here] for t in (latents, content.valid, content.observed, content.place)))}
    )
    assert_close(first.vectors[None][here], pooled)


def test_streams_that_are_views_never_see_each_other(model_of, contents, batch_of):
    model = model_of("ecg", "text", apart=True, noise=0.0)
    content = contents("ecg")
    batch = batch_of(ecg=content, text=contents_like(contents("text"), len(content.valid)))
    cuts = cuts_of(None, 0, 3, WIDTH)
    before = model.objective._views(model.backbone, batch, 0.0, cuts)
    other = batch.streams["text"]
    other = other._replace(values=other.values.roll(1, 0))
    after = model.objective._views(model.backbone, batch._replace(streams={**batch.streams, "text": other}), 0.0, cuts)
    assert torch.equal(before[0].vectors[None], after[0].vectors[None])
    assert not torch.equal(before[1].vectors[None], after[1].vectors[None])
    assert model.hide(batch, 0.0)["embedding"].denominator == (before[0].there & before[1].there).sum()
    model.zero_grad()
    (step_of(model, batch) + 0 * model.objective.touch(model.backbone, batch)).backward()
    assert all(p.grad is not None for p in model.parameters())


def contents_like(content, rows):
    return type(content)(*(tensor[:rows] for tensor in content[:5]))


# ---- the pool

LEARNED = {"type": "latent_attention", "latents": 4, "heads": 2}


def test_the_mean_is_that_of_the_observed_tokens_and_of_valid_ones_where_none_is_bit_for_bit(
    model_of, contents, batch_of
):
    model, content = model_of("text", "ecg", noise=0.2), contents("ecg")
    given = []
    model.objective.pool.register_forward_hook(lambda _, streams, pooled: given.append((streams[0], pooled)))
    batch = batch_of(ecg=content, text=contents_like(contents("text"), len(content.valid)))
    views = model.objective._views(model.backbone, batch, 0.0, cuts_of(None, 0, 3, WIDTH))
    for view, (streams, _) in zip(views, given, strict=True):
        x, valid, observed, _ = (torch.cat(columns, dim=1) for columns in zip(*streams.values(), strict=True))
        chosen = torch.where(observed.any(1, keepdim=True), observed, valid)
        total = torch.where(chosen.unsqueeze(2), x, 0.0).sum(1)
        assert torch.equal(view.vectors[None], total / chosen.sum(1, keepdim=True).clamp(min=1))
        assert list(streams) == ["text", "ecg"]


def test_class_tokens_of_texts_are_what_encode_pools_whatever_their_positions(model_of, contents, batch_of, text):
    assert text.positions != "rotary"
    model = model_of("text", noise=0.0, pool="class").eval()
    batch = batch_of(text=contents("text"))
    view, _ = model.objective._views(model.backbone, batch, 0.0, cuts_of(None, 0, 3, WIDTH))
    first = (batch.streams["text"].place == 0) & batch.streams["text"].valid & ~batch.streams["text"].observed
    latents, here = model.backbone(batch)["text"].x, view.there
    assert_close(
        view.vectors[None][here], torch.stack([x[own].mean(0) for x, own in zip(latents, first, strict=True)])[here]
    )


@pytest.mark.parametrize("apart", [False, True])
def test_a_latent_attention_pool_starts_with_the_loss_of_the_mean_and_all_else_as_with_it(
    modalities, backbone_of, contents, batch_of, apart
):
    chosen = {name: modalities[name] for name in ("text", "ecg")}
    backbone, content = backbone_of(chosen, depth=3), contents("ecg")
    batch = batch_of(ecg=content, text=contents_like(contents("text"), len(content.valid)))
    losses, rest = [], []
    for pool in ("mean", LEARNED):
        torch.manual_seed(1)
        settings = {"apart": apart, "matryoshka": {"layers": [1], "widths": [4], "alignment": 0.0}}
        objective = component(Objective, "embedding", pool=pool, **settings).build(backbone, chosen)
        losses.append(step_of(MaskedModel(backbone, objective).train(), batch))
        rest.append({n: value for n, value in objective.state_dict().items() if not n.startswith("pool.")})
    assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    assert rest[0].keys() == rest[1].keys()
    assert all(torch.equal(rest[0][name], rest[1][name]) for name in rest[0])


@pytest.mark.parametrize("pool", ["attention", LEARNED])
@pytest.mark.parametrize("apart", [False, True])
def test_a_learned_pool_has_a_gradient_in_every_step_and_knows_no_padding(model_of, contents, batch_of, pool, apart):
    settings = {"pool": pool, "apart": apart, "matryoshka": {"layers": [1], "widths": [4]}}
    model, content = model_of("ecg", "text", **settings), contents("ecg")
    some = contents_like(contents("text"), len(content.valid))
    both, alone = batch_of(ecg=content, text=some), batch_of(ecg=content)
    other = some.values.masked_fill(~some.valid, 7)
    assert not torch.equal(other, some.values)
    assert_close(
        step_of(model, both._replace(streams={**both.streams, "text": some._replace(values=other)})),
        step_of(model, both),
    )
    for batch in (both, alone):
        model.zero_grad()
        (step_of(model, batch) + 0 * model.objective.touch(model.backbone, batch)).backward()
        assert all((p.grad != 0).any() for p in model.objective.pool.parameters())
        assert all(p.grad is not None for p in model.parameters())


def test_the_same_pool_is_behind_every_block(model_of, contents, batch_of):
    model = model_of("image", pool=LEARNED, matryoshka={"layers": [2]}, noise=0.0).eval()
    batch = batch_of(image=contents("image"))
    view, _ = model.objective._views(model.backbone, batch, 0.0, cuts_of(model.objective.matryoshka, 0, 3, WIDTH))
    by_layer = model.objective.by_layer(model.backbone, batch)
    del model.backbone.trunk.blocks[2]
    short, _ = model.objective._views(model.backbone, batch, 0.0, cuts_of(None, 0, 2, WIDTH))
    assert torch.equal(view.vectors[2], short.vectors[None])
    assert torch.equal(by_layer[:2], model.objective.by_layer(model.backbone, batch)[:2])


# ---- cuts


def test_the_full_width_and_the_last_layer_alone_are_the_plain_loss_bit_for_bit(model_of, contents, batch_of):
    batch = batch_of(text=contents("text"))
    plain = step_of(model_of("text"), batch)
    assert torch.equal(step_of(model_of("text", matryoshka={"layers": [3], "widths": [WIDTH]}), batch), plain)
    assert step_of(model_of("text", matryoshka={"layers": [1], "widths": [4]}), batch) > plain


def test_the_terms_of_a_step_are_those_of_the_formula(model_of, contents, batch_of):
    settings = {"layers": [2], "widths": [4], "layer_weight": "inverse", "alignment": 0.7}
    model, batch = model_of("labs", matryoshka=settings), batch_of(labs=contents("labs"))
    own = model.objective
    one, other = own._views(model.backbone, batch, 0.0, cuts_of(own.matryoshka, 0, 3, WIDTH))
    rows = Rows(batch.uid, torch.ones_like(one.there), one.there)
    wanted = torch.zeros(())
    for layer, weight in ((None, 1.0), (2, 1 / 3)):
        for width in (4, WIDTH):
            parts = (view.vectors[layer][:, :width] for view in (one, other))
            wanted = wanted + weight * contrast(*parts, rows, temperature=0.04, own_side=True)[0].sum()
    for view in (one, other):
        apart = divergence(view.vectors[None], view.vectors[2], 0.3)
        wanted = wanted + 0.7 * 0.5 * apart[one.there].sum()
    assert_close(step_of(model, batch), wanted)


def test_the_states_of_a_block_are_what_a_trunk_of_that_depth_gives(model_of, contents, batch_of):
    model = model_of("image", matryoshka={"layers": [2]}, noise=0.0).eval()
    batch = batch_of(image=contents("image"))
    view, _ = model.objective._views(model.backbone, batch, 0.0, cuts_of(model.objective.matryoshka, 0, 3, WIDTH))
    del model.backbone.trunk.blocks[2]
    short, _ = model.objective._views(model.backbone, batch, 0.0, cuts_of(None, 0, 2, WIDTH))
    assert torch.equal(view.vectors[2], short.vectors[None])


def test_the_divergence_is_none_of_equals_knows_no_shift_and_leaves_its_teacher_alone():
    teacher, student = (x.requires_grad_() for x in vectors())
    assert_close(divergence(teacher, teacher, 0.3), torch.zeros(ROWS), rtol=0, atol=1e-6)
    assert_close(divergence(teacher + 5, student - 2, 0.3), divergence(teacher, student, 0.3), rtol=1e-4, atol=1e-5)
    divergence(teacher, student, 0.3).sum().backward()
    assert teacher.grad is None
    assert (student.grad != 0).any()
    goal, said = ((x / 0.3).softmax(1) for x in (teacher, student))
    wanted = 0.3 * torch.nn.functional.kl_div(said.log(), goal, reduction="batchmean")
    assert_close(divergence(teacher, student, 0.3).mean(), wanted)


def test_the_cut_of_a_step_is_drawn_by_the_step_alone_and_all_have_their_turn():
    settings = MatryoshkaSettings(layers=(1, 2, 3), widths=(4, 8))
    drawn = [tuple(cuts_of(settings, position, 4, WIDTH)) for position in range(60)]
    assert drawn == [tuple(cuts_of(settings, position, 4, WIDTH)) for position in range(60)]
    found = {(cut.layer, cut.width) for terms in drawn for cut in terms}
    assert found == {(layer, width) for layer in (None, 1, 2, 3) for width in (None, 4, 8)}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"matryoshka": {"layers": [4]}}, "objective.matryoshka.layers: expected 1 to 3, what the trunk has, got 4"),
        ({"matryoshka": {"widths": [17]}}, "objective.matryoshka.widths: expected 1 to 16, what the trunk has, got 17"),
        ({"matryoshka": {}}, "expected some of either, got none"),
        ({"noise": 1.0}, "expected a share below 1"),
        ({"temperature": 0.0}, "a positive number"),
        ({"pool": "disentangled"}, "disentangled' joins .* use attention, class_token, latent_attention, mean$"),
        ({"pool": "men"}, "got 'men'; did you mean 'mean'"),
        ({"pool": {"type": "latent_attention", "heads": 3}}, "width 16 can't be shared by 3 heads"),
        ({"streams": {"ecg": {}}}, "objective.streams.ecg: no such stream; the recipe has text"),
        ({"streams": {"text": {"length": 8, "shortest": 8}}}, "expected more than length=8"),
    ],
)
def test_what_can_not_be_is_refused_with_a_sentence(model_of, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_of("text", **settings)
