"""Optimisers that can be told to let a step pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

Groups = list[dict[str, Any]]


class Held(Optimizer):
    """Goes before an optimiser among the bases: a held step leaves weights, moments and step count as they are."""

    held = False

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """As the optimiser's own, or nothing."""
        return None if self.held else super().step(closure)  # type: ignore[safe-super]


class HeldAdamW(Held, torch.optim.AdamW):
    """AdamW likewise."""


class Together(Held):
    """Several optimisers of different weights as one, which has their groups and their state."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = tuple(parts)
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Of each in turn, or nothing."""
        loss = None if closure is None or self.held else closure()
        for part in () if self.held else self.parts:
            part.step()
        return loss
