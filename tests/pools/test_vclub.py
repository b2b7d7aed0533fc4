"""vCLUB: what the bound is where it is known, what its estimator learns, and what stands still."""

import pytest
import torch
from torch.nn.functional import gaussian_nll_loss
from torch.testing import assert_close

from mmpt.pools.vclub import Estimator, Gaussian, log_likelihood, vclub

RHO = 0.8


def pairs(rows, rho, seed=0, size=1):
    """Standard normal x and y, number by number with this correlation."""
    x, noise = torch.randn(2, rows, size, generator=torch.Generator().manual_seed(seed))
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


def true_q(x, rho):
    return Gaussian(rho * x, torch.full_like(x, 1 - rho**2).log())


def estimator(size=1, seed=0, learning_rate=1e-2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Estimator(size, size, hidden=16, learning_rate=learning_rate)


def all_of(x):
    return torch.ones(len(x), dtype=torch.bool)


def gaussians(rows=12, size=3):
    """Any Gaussians and any y, and which rows count."""
    generator = torch.Generator().manual_seed(1)
    mean, log_variance, y = torch.randn(3, rows, size, generator=generator)
    return Gaussian(mean, log_variance), y, torch.arange(rows) % 3 > 0


# ---- the bound


def test_the_likelihood_is_torchs():
    q, y, _ = gaussians()
    peer = gaussian_nll_loss(q.mean, y, q.log_variance.exp(), full=True, reduction="none")
    assert_close(log_likelihood(q, y), -peer.sum(dim=1))


def test_value_and_gradient_are_those_of_own_likelihood_less_the_mean_over_all_pairs():
    q, y, counted = gaussians()
    sides = [side.requires_grad_() for side in (*q, y)]
    own, rows = log_likelihood(q, y), counted.nonzero().squeeze(1).tolist()
    each = []
    for i in rows:
        every = [log_likelihood(Gaussian(*(side[i : i + 1] for side in q)), y[j : j + 1]) for j in rows]
        each.append(own[i] - torch.cat(every).mean())
    got = vclub(q, y, counted)
    assert (got[~counted] == 0).all()
    assert_close(got[counted], torch.stack(each))
    weights = torch.arange(1.0, len(rows) + 1)
    expected = torch.autograd.grad((weights * torch.stack(each)).sum(), sides)
    for mine, theirs in zip(torch.autograd.grad((weights * got[counted]).sum(), sides), expected, strict=True):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_with_the_true_conditional_it_is_the_known_number_and_not_the_mutual_information():
    x, y = pairs(200_000, RHO)
    bound = vclub(true_q(x, RHO), y, all_of(x)).mean()
    assert float(bound) == pytest.approx(RHO**2 / (1 - RHO**2), abs=0.03)  # 1.78; the mutual information is 0.51


def test_with_the_true_conditional_of_independent_sides_it_is_0():
    x, y = pairs(1000, 0.0)
    assert float(vclub(true_q(x, 0.0), y, all_of(x)).mean()) == pytest.approx(0.0, abs=1e-6)


def test_order_of_rows_and_rows_that_do_not_count_change_nothing():
    q, y, counted = gaussians()
    turn = torch.randperm(len(y), generator=torch.Generator().manual_seed(2))
    got = vclub(q, y, counted)
    turned = vclub(Gaussian(q.mean[turn], q.log_variance[turn]), y[turn], counted[turn])
    assert_close(turned, got[turn])
    other = torch.where(counted.unsqueeze(1), y, torch.nan)
    assert torch.equal(vclub(q, other, counted), got)


def test_nothing_counted_is_nothing():
    q, y, counted = gaussians()
    assert (vclub(q, y, counted & False) == 0).all()


def test_the_gradient_reaches_both_sides_and_no_row_that_does_not_count():
    counted = torch.arange(9) > 2
    x, y = pairs(9, RHO, size=2)
    x, y = x.requires_grad_(), torch.where(counted.unsqueeze(1), y, torch.inf).requires_grad_()
    q = estimator(2)
    vclub(q(x), y, counted).sum().backward()
    for side in (x, y):
        assert side.grad is not None
        assert (side.grad[counted] != 0).any(dim=1).all()
        assert (side.grad[~counted] == 0).all()
    assert all(p.grad is None for p in q.parameters())


# ---- the estimator


@pytest.mark.parametrize(("rho", "low", "high"), [(0.0, -0.05, 0.05), (RHO, 1.2, RHO**2 / (1 - RHO**2) + 0.1)])
def test_a_learned_estimate_tells_dependent_sides_from_independent_ones(rho, low, high):
    q = estimator(learning_rate=3e-2)
    for step in range(120):
        x, y = pairs(512, rho, seed=step)
        q.learn(x, y, all_of(x))
    x, y = pairs(20_000, rho, seed=1000)
    bound = float(vclub(q(x), y, all_of(x)).mean())
    assert low < bound < high


def test_learning_is_torchs_adam_on_the_mean_likelihood_of_counted_rows():
    q, peer = estimator(2), estimator(2).requires_grad_(True)
    adam = torch.optim.Adam(peer.parameters(), lr=1e-2)
    for step in range(5):
        x, y = pairs(12, RHO, seed=step, size=2)
        counted = torch.arange(12) % 4 > 0
        q.learn(x, y, counted)
        adam.zero_grad()
        (-log_likelihood(peer(x), y)[counted].mean()).backward()
        adam.step()
    for mine, theirs in zip(q.parameters(), peer.parameters(), strict=True):
        assert_close(mine, theirs.detach(), rtol=1e-5, atol=1e-6)
    assert q.steps == 5


def test_learning_leaves_the_pairs_and_their_history_alone():
    q = estimator()
    leaf = torch.randn(8, 1, requires_grad=True)
    q.learn(2 * leaf, 3 * leaf, all_of(leaf))
    assert leaf.grad is None
    assert all(p.grad is None and not p.requires_grad for p in q.parameters())


@pytest.mark.parametrize("spoiled", ["none counted", "not finite"])
def test_a_step_that_can_not_be_made_moves_nothing(spoiled):
    q = estimator()
    x, y = pairs(8, RHO)
    q.learn(x, y, all_of(x))
    before = {name: value.clone() for name, value in q.state_dict().items()}
    q.learn(x, torch.full_like(y, torch.inf) if spoiled == "not finite" else y, all_of(x) & (spoiled == "not finite"))
    assert all(torch.equal(value, before[name]) for name, value in q.state_dict().items())


def test_all_that_learning_needs_is_in_the_state():
    one, other = estimator(seed=0), estimator(seed=1)
    x, y = pairs(8, RHO)
    one.learn(x, y, all_of(x))
    other.load_state_dict(one.state_dict())
    for q in (one, other):
        q.learn(x, y, all_of(x))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
