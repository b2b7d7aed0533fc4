"""Exact properties of constructed latents."""

import pytest
import torch

from mmpt.evaluation.spectrum import (
    Moments,
    effective_rank,
    energy_rank,
    linear_shortcut,
    mean_cosine,
    numeric_rank,
    outlier_dimensions,
    row_cosines,
    singular_values,
)

WIDTH = 24


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments(*parts, keep=True):
    own = Moments(parts[0].shape[1], keep=keep)
    for part in parts:
        own.add(part, torch.arange(len(part)))
    return own


def test_latents_of_rank_one_have_effective_rank_one():
    x = normal(500, 1) * normal(1, WIDTH, seed=1)
    assert effective_rank(moments(x).values) == pytest.approx(1, abs=1e-4)
    assert energy_rank(moments(x).values) == 1


def test_isotropic_latents_have_about_as_many_directions_as_dimensions():
    assert 0.97 * WIDTH < effective_rank(moments(normal(5000, WIDTH)).values) <= WIDTH
    assert effective_rank(torch.ones(WIDTH)) == pytest.approx(WIDTH)
    assert energy_rank(torch.ones(20)) == 18
    shares = torch.tensor([2, 1, 1]) / 4  # of the values themselves, not of their squares
    assert effective_rank(shares * 7) == pytest.approx(2**1.5)
    assert effective_rank(torch.zeros(5)) == energy_rank(torch.zeros(5)) == 0


def test_k_even_directions_give_k_whatever_their_order_and_turn():
    turned, _ = torch.linalg.qr(normal(WIDTH, WIDTH))
    x = torch.cat([torch.eye(6), torch.zeros(6, WIDTH - 6)], dim=1).repeat(50, 1) @ turned
    assert effective_rank(moments(x).values) == pytest.approx(6, rel=1e-3)
    assert energy_rank(moments(x).values) == 6


def test_sums_over_parts_are_those_of_the_whole_and_of_torch():
    x = normal(300, WIDTH) + 0.5
    own = moments(x[:100], x[100:], keep=False)
    assert torch.allclose(own.values, torch.linalg.svdvals(x.double()))
    assert torch.allclose(singular_values(x), own.values)
    assert torch.allclose(singular_values(x[:7]), torch.linalg.svdvals(x[:7].double()))
    cosines = torch.nn.functional.cosine_similarity(x.unsqueeze(0), x.unsqueeze(1), dim=2).double()
    assert own.anisotropy == pytest.approx(float((cosines.sum() - 300) / (300 * 299)), abs=1e-6)
    assert own.anisotropy == pytest.approx(mean_cosine(x))
    assert own.count == 300
    assert len(own.kept) == 0


def test_identical_tokens_are_alike_and_orthogonal_ones_are_not():
    rows = torch.stack([normal(1, WIDTH).expand(5, WIDTH), torch.eye(WIDTH)[:5], normal(5, WIDTH)])
    chosen = torch.ones(3, 5, dtype=torch.bool)
    assert row_cosines(rows[:1], chosen[:1]) == pytest.approx((1, 1))
    assert row_cosines(rows[1:2], chosen[1:2]) == pytest.approx((0, 1))
    chosen[2, 1:] = False  # one token has no neighbour, and padding is none
    assert row_cosines(rows, chosen) == pytest.approx((1, 2))


def test_padding_is_in_no_row_s_cosine():
    x = normal(2, 6, WIDTH)
    chosen = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    before = row_cosines(x, chosen)
    x[0, 4:] = torch.inf
    assert row_cosines(x, chosen) == before
    assert mean_cosine(x[0, :4]) == pytest.approx(row_cosines(x[:1], chosen[:1])[0])


def test_a_planted_dimension_is_the_outlier_and_nothing_else_is():
    x = normal(2000, WIDTH)
    assert outlier_dimensions(moments(x * 0).mean) == {}
    clean = mean_cosine(x)
    planted = x.clone()
    planted[:, 7] += 50
    own = moments(planted)
    assert list(outlier_dimensions(own.mean)) == [7]
    assert abs(clean) < 0.01
    assert own.anisotropy > 0.95
    planted[:, 7] = x[:, 7]
    assert mean_cosine(planted) == clean


def test_a_dimension_that_counts_places_is_told():
    x = normal(300, WIDTH)
    x[:, 3] = torch.arange(300.0) * 2 + 5
    assert moments(x).with_place(3) == pytest.approx(1)
    assert abs(moments(x).with_place(4)) < 0.2
    x[:, 5] = 1.0
    assert moments(x).with_place(5) == 0


def test_masked_tokens_outside_the_real_ones_directions_are_told():
    real = torch.cat([normal(400, 4), torch.zeros(400, WIDTH - 4)], dim=1)
    inside, beyond = (torch.cat([part, torch.zeros(100, WIDTH - 8)], dim=1) for part in
                      (torch.cat([normal(100, 4, seed=2), torch.zeros(100, 4)], dim=1),
                       torch.cat([torch.zeros(100, 4), normal(100, 4, seed=2)], dim=1)))  # fmt: skip
    assert moments(inside).outside(moments(real)) == pytest.approx(0, abs=1e-9)
    assert moments(beyond).outside(moments(real)) == pytest.approx(1)
    assert Moments(WIDTH).outside(moments(real)) is None


def test_a_linear_block_is_a_shortcut_and_the_last_one_is_itself():
    x = normal(400, WIDTH)
    found = linear_shortcut(x, x @ normal(WIDTH, WIDTH, seed=1))
    assert found[0] == pytest.approx(1)
    assert found[1] < 0.5
    assert linear_shortcut(x, x) == pytest.approx((1, 1))
    assert linear_shortcut(x, normal(400, WIDTH, seed=3))[0] < 0
    assert linear_shortcut(x[:40], x[:40]) is None


def test_logits_have_no_more_rank_than_the_width():
    """The softmax bottleneck: of float32 logits as a model gives them; log-probabilities have one more at most."""
    logits = normal(120, 8) @ normal(8, 100, seed=1)
    assert numeric_rank(logits) == 8
    assert numeric_rank(logits.log_softmax(1)) == 9
    assert numeric_rank(torch.zeros(3, 4)) == 0
