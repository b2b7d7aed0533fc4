"""Which experts a token chooses, which choices find a place, and what they weigh; the rules of GShard and EVE.

GShard: Lepikhin et al. 2020, algorithm 1. EVE: Chen et al. 2023. The tokens are those of a whole micro-batch of one
rank, its rows one after the other: a queue, a capacity and a balance are of that many.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from mmpt.randomness import fold, uniform


class Plan(NamedTuple):
    """How tokens get to experts and back; slots stand expert by expert."""

    source: Int[Tensor, " slots"]  # the token in each slot; one past the last token where a slot is empty
    slot: Int[Tensor, "k tokens"]  # of each choice; one past the last slot where it found no place
    sizes: list[int]  # slots of each expert
    kept: Bool[Tensor, "k tokens"]


@torch.compiler.disable()  # 64-bit wrapping constants overflow inductor's index arithmetic (torch 2.14)
def gumbel(
    draw: Int[Tensor, " B"], valid: Bool[Tensor, "B S"], layer: int, experts: int
) -> Float[Tensor, "B S {experts}"]:
    """Standard Gumbel noise; a token's own depends on its row and its place among the row's valid tokens alone."""
    rank = valid.cumsum(1)
    keys = fold(fold(fold(draw, "experts"), layer).unsqueeze(1), rank)
    lots = uniform(fold(keys.unsqueeze(2), torch.arange(experts, device=draw.device)))
    return -(-lots.log()).log()


def choose(
    logits: Float[Tensor, "tokens E"], k: int, noise: Float[Tensor, "tokens E"] | None
) -> tuple[Float[Tensor, "tokens E"], Int[Tensor, "k tokens"]]:
    """The gate's probabilities, and every token's experts: the most probable, then the best others after noise."""
    gates = logits.softmax(1)
    first = gates.argmax(1, keepdim=True)
    others = logits if noise is None else logits + noise
    rest = others.scatter(1, first, float("-inf")).topk(k - 1, dim=1).indices
    return gates, torch.cat([first, rest], dim=1).t()


def capacity(tokens: int, k: int, experts: int, factor: float, least: int) -> int:
    """Places of an expert among so many tokens."""
    return max(least, math.ceil(tokens * (k * factor / experts) - 1e-9))


def within_capacity(
    experts: Int[Tensor, "k tokens"], valid: Bool[Tensor, " tokens"], count: int, factor: float, least: int
) -> Plan:
    """An expert takes the first that ask, all first choices before all second ones; padding asks for nothing.

    Sizes follow from the shapes and the limit from the valid tokens, so that nothing waits for the device.
    """
    k, tokens = experts.shape
    limit = (valid.sum() * (k * factor / count) - 1e-9).ceil().clamp(min=least)
    asks = one_hot(experts, count) * valid.unsqueeze(1)
    place = asks.flatten(0, 1).cumsum(0).view_as(asks).gather(2, experts.unsqueeze(2)).squeeze(2) - 1
    kept = valid & (place < limit)
    size = min(capacity(tokens, k, count, factor, least), tokens)
    slot = torch.where(kept, experts * size + place, count * size)
    source = slot.new_full((count * size + 1,), tokens)
    source.scatter_(0, slot.flatten(), torch.arange(tokens, device=slot.device).repeat(k))
    return Plan(source[:-1], slot, [size] * count, kept)


def dropless(experts: Int[Tensor, "k tokens"], valid: Bool[Tensor, " tokens"], count: int) -> Plan:
    """Everyone who asks finds a place; how many ask, the host has to know, which waits for the device."""
    asked = torch.where(valid, experts, count).flatten()
    sizes = asked.bincount(minlength=count + 1)[:count].tolist()
    order = asked.argsort(stable=True)
    slot = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    kept = valid.expand_as(experts)
    slot = torch.where(kept, slot.view_as(experts), sum(sizes))
    return Plan(order[: sum(sizes)] % experts.shape[1], slot, sizes, kept)


def combine_weights(
    gates: Float[Tensor, "tokens E"], experts: Int[Tensor, "k tokens"], kept: Bool[Tensor, "k tokens"]
) -> Float[Tensor, "k tokens"]:
    """A token's probabilities, shared out anew over the choices that found a place.

    The only choice keeps its probability, as in the Switch transformer (Fedus et al. 2021): a share that is always 1
    would teach the gate nothing.
    """
    own = gates.t().gather(0, experts) * kept
    return own if len(own) == 1 else own / own.sum(0).clamp(min=torch.finfo(own.dtype).tiny)


def balance_loss(
    gates: Float[Tensor, "tokens E"], first: Int[Tensor, " tokens"], valid: Bool[Tensor, " tokens"]
) -> Float[Tensor, ""]:
    """E times the sum over experts of mean probability times share of first choices: 1 if even, E if one has all."""
    count, experts = valid.sum().clamp(min=1), gates.shape[1]
    mean = (gates * valid.unsqueeze(1)).sum(0) / count
    share = (one_hot(first, experts) * valid.unsqueeze(1)).sum(0) / count
    return experts * (mean * share).sum()


def z_loss(logits: Float[Tensor, "tokens E"], valid: Bool[Tensor, " tokens"]) -> Float[Tensor, ""]:
    """Mean square of log-sum-exp (ST-MoE, Zoph et al. 2022, equation 5)."""
    return (logits.logsumexp(1).square() * valid).sum() / valid.sum().clamp(min=1)
