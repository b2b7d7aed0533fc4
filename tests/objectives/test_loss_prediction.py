"""The loss predictor: its losses by their formulas, what they are invariant to, and the figures beside them."""

import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from mmpt.objectives.loss_prediction import absolute_loss, hard_overlap, relative_loss, spearman


@pytest.fixture
def rows():
    """Predictions and losses of rows of 9, 4, 2, 1 and 0 tokens, the padding full of nonsense; and which are real."""
    generator = torch.Generator().manual_seed(0)
    predicted, true = (torch.randn(5, 9, generator=generator) for _ in range(2))
    true[1, 2] = true[1, 0]  # a tie
    return predicted, true.exp(), torch.arange(9) < torch.tensor([[9], [4], [2], [1], [0]])


def pairs_of(row, true, valid):
    """Explicit ordered pairs i != j of different loss."""
    places = valid.nonzero().flatten().tolist()
    pairs = [(i, j) for i in places for j in places if i != j and true[i] != true[j]]
    logits = torch.stack([row[i] - row[j] for i, j in pairs])
    return logits, torch.tensor([float(true[i] > true[j]) for i, j in pairs])


def test_the_relative_loss_is_torchs_cross_entropy_over_explicit_pairs(rows):
    predicted, true, valid = rows
    loss = relative_loss(predicted, true, valid)
    for number, count in ((0, 72), (1, 10), (2, 2)):
        logits, labels = pairs_of(predicted[number], true[number], valid[number])
        assert len(logits) == count
        assert_close(loss[number], binary_cross_entropy_with_logits(logits, labels))
    assert loss[3:].tolist() == [0, 0]


def test_equal_predictions_cost_the_logarithm_of_two(rows):
    _, true, valid = rows
    assert_close(relative_loss(torch.full_like(true, 3.7), true, valid)[:3], torch.full((3,), 2.0).log())


def test_the_relative_loss_knows_no_level_of_predictions_and_no_scale_of_losses(rows):
    predicted, true, valid = rows
    loss = relative_loss(predicted, true, valid)
    assert_close(relative_loss(predicted + 5, true, valid), loss)
    for monotone in (torch.log, lambda x: x**3, lambda x: 2 * x - 7):
        assert torch.equal(relative_loss(predicted, monotone(true), valid), loss)
    assert not torch.allclose(relative_loss(predicted, -true, valid), loss)


@pytest.mark.parametrize("form", [relative_loss, absolute_loss])
def test_a_loss_moves_with_its_tokens_and_ignores_padding(rows, form):
    predicted, true, valid = rows
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    loss = form(predicted, true, valid)
    assert_close(form(predicted[:, order], true[:, order], valid[:, order]), loss)
    assert_close(form(predicted.masked_fill(~valid, 1e6), true.masked_fill(~valid, -1e6), valid), loss)


def test_the_absolute_loss_is_the_squared_error_against_the_standardised_losses(rows):
    predicted, true, valid = rows
    loss = absolute_loss(predicted, true, valid)
    for number in range(3):
        own, here = true[number, valid[number]], predicted[number, valid[number]]
        wanted = ((own - own.mean()) / (own.var() + 1e-6).sqrt() - here).square().mean()
        assert_close(loss[number], wanted)
    assert loss[3:].tolist() == [0, 0]


@pytest.mark.parametrize("form", [relative_loss, absolute_loss])
def test_better_predictions_cost_less(rows, form):
    _, true, valid = rows
    order = true.masked_fill(~valid, 0.0).argsort(dim=1).argsort(dim=1).float()
    assert (form(order, true, valid) < form(-order, true, valid))[:3].all()


def test_the_rank_correlation_is_scipys(rows):
    predicted, true, valid = rows
    total, count = spearman(predicted, true, valid)
    wanted = [spearmanr(predicted[n, valid[n]], true[n, valid[n]])[0] for n in range(3)]
    assert float(count) == 3
    assert float(total) == pytest.approx(sum(wanted), abs=1e-6)
    assert [float(x) for x in spearman(torch.ones_like(true), true, valid)] == [0, 0]


def test_the_overlap_counts_what_was_rightly_called_hard():
    true = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0, 99.0], [1.0, 2.0, 3.0, 4.0, 99.0, 99.0]])
    valid = torch.tensor([[True] * 5 + [False], [True] * 4 + [False] * 2])
    certain = torch.tensor([[True, False, False, True, True, False], [False] * 6])
    found, chance, count = (float(x) for x in hard_overlap(certain, true, valid))
    assert (found, count) == (2, 3)  # the three hardest of the first row are 0, 2 and 4
    assert chance == pytest.approx(9 / 5)
