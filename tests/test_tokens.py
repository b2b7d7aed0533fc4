"""Moving tokens about: what is dropped comes back to its place, and nothing else changes."""

import pytest
import torch

from mmpt.tokens import (
    Tokens,
    chosen_first,
    concatenate,
    drop,
    flatten,
    gather,
    gather_tokens,
    replace,
    restore,
    score,
)

B, N, D = 3, 6, 4


def tokens_of(valid=None, full=None, rotary=False, first=0.0):
    """Every number different, so that none can be mistaken for another."""
    x = torch.arange(B * N * D, dtype=torch.float32).view(B, N, D) + first
    valid = torch.ones(B, N, dtype=torch.bool) if valid is None else valid
    place = torch.arange(N).expand(B, N)
    segment, stream = place // 3, torch.zeros(B, N, dtype=torch.int64)
    return Tokens(x, x + 0.5, place, valid, segment, stream, bool(valid.all()) if full is None else full, rotary)


@pytest.fixture
def padded():
    return torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [False] * 6])


@pytest.fixture
def hidden():
    return torch.tensor([[0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()


def test_gather_takes_whole_entries_of_any_shape():
    index = torch.tensor([[2, 0], [5, 5], [1, 3]])
    for x in (torch.rand(B, N), torch.rand(B, N, D), torch.rand(B, N, 2, 3)):
        expected = torch.stack([row[chosen] for row, chosen in zip(x, index, strict=True)])
        assert torch.equal(gather(x, index), expected)


def test_gather_tokens_moves_all_that_belongs_to_a_token():
    tokens, index = tokens_of(rotary=True), torch.tensor([[2, 0], [5, 4], [1, 3]])
    taken = gather_tokens(tokens, index, full=False)
    for mine, theirs in zip(taken[:6], tokens[:6], strict=True):
        assert torch.equal(mine, gather(theirs, index))
    assert taken.rotary
    assert not taken.full


def test_the_chosen_come_first_and_in_order():
    chosen = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    index, real = chosen_first(chosen, None)
    assert index.shape == (B, 3)
    assert [row[is_real].tolist() for row, is_real in zip(index, real, strict=True)] == [[1, 3, 4], [0], []]


def test_one_place_stays_where_nothing_is_chosen():
    index, real = chosen_first(torch.zeros(B, N, dtype=torch.bool), None)
    assert index.shape == (B, 1)
    assert not real.any()


def test_a_known_count_gives_what_looking_gives():
    chosen = torch.rand(B, N).argsort(1) < 4
    for mine, theirs in zip(chosen_first(chosen, 4), chosen_first(chosen, None), strict=True):
        assert torch.equal(mine, theirs)


def test_drop_leaves_out_what_is_hidden_and_what_is_padding(padded, hidden):
    tokens = tokens_of(padded)
    shown = drop(tokens, hidden, None)
    assert shown.tokens.x.shape == (B, 3, D)
    assert shown.tokens.valid.tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert shown.places[:2].tolist() == [[0, 3, 4], [1, 2, 3]]
    assert torch.equal(shown.tokens.x[0], tokens.x[0, [0, 3, 4]])
    assert torch.equal(shown.tokens.place[1], torch.tensor([1, 2, 3]))
    assert torch.equal(shown.tokens.segment[1], torch.tensor([0, 0, 1]))
    assert not shown.tokens.full


def test_drop_with_a_fixed_count_is_full_and_the_same():
    hidden = torch.rand(B, N).argsort(1) < 2
    counted, looked = drop(tokens_of(), hidden, 2), drop(tokens_of(), hidden, None)
    assert counted.tokens.full
    for mine, theirs in zip(counted.tokens[:6], looked.tokens[:6], strict=True):
        assert torch.equal(mine, theirs)


def test_restore_puts_the_fill_where_tokens_were_dropped_and_the_rest_in_their_places(padded, hidden):
    tokens, fill = tokens_of(padded, first=1.0), torch.full((D,), -7.0)
    restored = restore(drop(tokens, hidden, None).tokens.x, drop(tokens, hidden, None), fill, N)
    seen = padded & ~hidden
    assert torch.equal(restored[seen], tokens.x[seen])
    assert (restored[~seen] == -7).all()


def test_restore_keeps_gradients_of_latents_and_fill(hidden):
    tokens, fill = tokens_of(), torch.zeros(D, requires_grad=True)
    shown = drop(tokens, hidden, None)
    latents = shown.tokens.x.clone().requires_grad_()
    restore(latents, shown, fill, N).sum().backward()
    assert torch.equal(latents.grad, shown.tokens.valid.unsqueeze(2).expand_as(latents).float())
    assert (fill.grad == (B * N - int(shown.tokens.valid.sum()))).all()


def test_replace_shows_every_token_in_its_place(padded):
    tokens, x = tokens_of(padded), torch.rand(B, N, D)
    shown = replace(tokens, x)
    assert torch.equal(shown.tokens.x, x)
    assert torch.equal(shown.places, torch.arange(N).expand(B, N))
    assert torch.equal(restore(x, shown, torch.zeros(D), N)[padded], x[padded])


def test_concatenate_puts_streams_side_by_side(padded):
    first, second = tokens_of(), tokens_of(padded, rotary=True, first=100.0)
    both = concatenate([first, second])
    for mine, left, right in zip(both[:6], first[:6], second[:6], strict=True):
        assert torch.equal(mine, torch.cat([left, right], dim=1))
    assert both.rotary
    assert not both.full
    assert concatenate([first, first]).full
    assert concatenate([first]) is first


def test_flattening_lists_the_scored_entries_row_by_row(hidden):
    x, scored = torch.rand(B, N, 2), score(hidden, None)
    assert torch.equal(flatten(gather(x, scored.places), scored), x[hidden])


def test_flattening_a_known_count_gives_the_same_without_a_look_at_the_data():
    hidden, x = torch.rand(B, N).argsort(1) < 2, torch.rand(B, N, 2)
    scored = score(hidden, 2)
    assert scored.full
    assert torch.equal(flatten(gather(x, scored.places), scored), x[hidden])
