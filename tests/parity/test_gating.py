"""Gate, balance loss, capacity, combine weights and dispatch are those of DeepSpeed's mixture of experts."""

import pytest
import torch
from deepspeed.moe.sharded_moe import top1gating, top2gating, topkgating
from torch.testing import assert_close

from mmpt.trunk.gating import balance_loss, capacity, choose, combine_weights, dropless, within_capacity

TOKENS, EXPERTS = 37, 5
VALID = torch.ones(TOKENS, dtype=torch.bool)


def logits_of(seed=0, lean=0.0):
    """With `lean` the first expert is asked by more and more tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(TOKENS, EXPERTS, generator=generator) + lean * torch.eye(EXPERTS)[0]


def ours(logits, k, factor, least, *, drops=True):
    """Combine weights as (token, expert, place), the balance loss, and choices by expert."""
    gates, experts = choose(logits, k, None)
    plan = within_capacity(experts, VALID, EXPERTS, factor, least) if drops else dropless(experts, VALID, EXPERTS)
    weights = combine_weights(gates, experts, plan.kept)
    sizes = torch.tensor(plan.sizes)
    first = sizes.cumsum(0) - sizes
    place = plan.slot - first[experts]
    wide = int(sizes.max())
    dense = torch.zeros(TOKENS, EXPERTS, wide)
    for own, expert, where, kept in zip(weights, experts, place, plan.kept, strict=True):
        dense[torch.arange(TOKENS)[kept], expert[kept], where[kept]] = own[kept]
    return dense, balance_loss(gates, experts[0], VALID), torch.stack([(experts == n).sum() for n in range(EXPERTS)])


@pytest.mark.parametrize("lean", [0.0, 1.5, 6.0])
@pytest.mark.parametrize(("factor", "least"), [(0.25, 1), (0.5, 4), (1.0, 4), (1.3, 4), (1.0, 30), (2.5, 4)])
def test_two_choices_equal_deepspeeds(lean, factor, least):
    logits = logits_of(lean=lean)
    balance, combine, dispatch, asked = top2gating(logits.clone(), factor, least, top2_2nd_expert_sampling=False)
    mine, mine_balance, mine_asked = ours(logits, 2, factor, least)
    assert capacity(TOKENS, 2, EXPERTS, factor, least) == combine.shape[2]
    assert mine.shape[2] == min(combine.shape[2], TOKENS)
    assert_close(mine, combine[:, :, :TOKENS], rtol=0, atol=1e-5)
    assert torch.equal(mine > 0, dispatch[:, :, :TOKENS])
    assert_close(mine_balance, balance, rtol=0, atol=1e-5)
    assert torch.equal(mine_asked, asked)
    if factor < 1:
        assert (mine.flatten(1).sum(1) == 0).any()  # some are dropped twice over


@pytest.mark.parametrize("lean", [0.0, 6.0])
def test_two_choices_without_drops_equal_deepspeeds(lean):
    logits = logits_of(lean=lean)
    balance, combine, _, _ = top2gating(logits.clone(), 1.0, 4, drop_tokens=False, top2_2nd_expert_sampling=False)
    mine, mine_balance, _ = ours(logits, 2, 1.0, 4, drops=False)
    assert_close(mine.sum(2), combine.sum(2), rtol=0, atol=1e-5)
    assert_close(mine_balance, balance, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_one_choice_equals_deepspeeds(factor):
    logits = logits_of(lean=1.0)
    balance, combine, dispatch, asked = top1gating(logits.clone(), factor, 4, use_rts=False)
    mine, mine_balance, mine_asked = ours(logits, 1, factor, 4)
    assert_close(mine_balance, balance, rtol=0, atol=1e-5)
    assert torch.equal(mine_asked, asked)
    assert torch.equal((mine > 0).sum((0, 2)), dispatch.sum((0, 2)))  # as many find a place
    if factor == 5.0:
        assert_close(mine, combine[:, :, :TOKENS], rtol=0, atol=1e-5)
    else:  # DeepSpeed leaves open which ones of a queue that is too long
        assert (mine > 0).sum() < TOKENS
        both = (mine.sum(2) > 0) & (combine.sum(2) > 0)
        assert_close(mine.sum(2)[both], combine.sum(2)[both], rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [3, 5])
def test_more_choices_equal_deepspeeds_where_nothing_is_dropped(k):
    logits = logits_of()
    _, combine, _, asked = topkgating(logits.clone(), k, 1.0, 4, drop_tokens=False)
    mine, _, mine_asked = ours(logits, k, 1.0, 4, drops=False)
    assert_close(mine.sum(2), combine.sum(2), rtol=0, atol=1e-5)
    assert torch.equal(mine_asked, asked)


@pytest.mark.parametrize("k", [1, 2])
def test_gradients_of_the_balance_loss_equal_deepspeeds(k):
    logits, other = logits_of().requires_grad_(), logits_of().requires_grad_()
    gates, experts = choose(logits, k, None)
    balance_loss(gates, experts[0], VALID).backward()
    theirs = top1gating(other, 1.0, 4, use_rts=False) if k == 1 else top2gating(other, 1.0, 4, True, None, False)
    theirs[0].backward()
    assert logits.grad.abs().max() > 1e-4
    assert_close(logits.grad, other.grad, rtol=0, atol=1e-6)
