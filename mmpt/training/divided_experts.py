"""Routed experts divided over ranks: what is refused, and how the parts come together under their names again."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from mmpt.errors import ConfigError
from mmpt.trunk.feedforward.routed_experts import RoutedExperts


def check_experts(ep_size: int, settings: Mapping[str, Any], model: nn.Module, ranks: int) -> None:
    """Refuse experts that can't be divided over so many ranks, or not under this ZeRO stage."""
    if ep_size == 1:
        return
    counts = {part.count for part in model.modules() if isinstance(part, RoutedExperts)}
    if not counts:
        raise ConfigError(f"training.ep_size: {ep_size} divides routed experts, and this model has none; use 1")
    common = math.gcd(ranks, *counts)
    if common % ep_size:
        choices = ", ".join(str(size) for size in range(1, common + 1) if common % size == 0)
        experts = " and ".join(map(str, sorted(counts)))
        raise ConfigError(
            f"training.ep_size: expected a divisor of the number of ranks, {ranks}, and of experts, {experts}, "
            f"got {ep_size}; use {choices}"
        )
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    if stage not in (1, 2):
        reason = "divides all weights over all ranks alike" if stage == 3 else "clips by another norm on every rank"
        raise ConfigError(
            f"training.ep_size: {ep_size} needs deepspeed.zero_optimization.stage 1 or 2, got {stage}, "
            f"which {reason}; use 1 or 2, or ep_size 1"
        )


def divide(model: nn.Module, group: ProcessGroup, name: str) -> None:
    """Leave this rank its share, a teacher's experts among them, under DeepSpeed's marks for what ranks don't share."""
    for part in model.modules():
        if isinstance(part, RoutedExperts):
            for parameter in part.divide(group):
                parameter.allreduce, parameter.group_name = False, name  # type: ignore[attr-defined]


def named(model: nn.Module, group: ProcessGroup | None) -> list[tuple[list[str], nn.Parameter]]:
    """Every parameter with its name; one of a divided expert with the names it has on all ranks of the group."""
    own = list(model.named_parameters())
    ranks = [[name for name, _ in own]]
    if group:
        ranks *= group.size()
        torch.distributed.all_gather_object(ranks, ranks[0], group=group)
    names = (list(dict.fromkeys(of_ranks)) for of_ranks in zip(*ranks, strict=True))
    return [(of_ranks, parameter) for of_ranks, (_, parameter) in zip(names, own, strict=True)]


def gathered(value: Shaped[Tensor, "..."], group: ProcessGroup | None) -> list[Shaped[Tensor, "..."]]:
    """What it is on every rank of the group."""
    if group is None:
        return [value]
    values = [torch.empty_like(value) for _ in range(group.size())]
    torch.distributed.all_gather(values, value.contiguous(), group=group)
    return values
