"""AdamW over the groups of parameters that a model has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mmpt.settings import OptimizerSettings

Groups = list[dict[str, Any]]


class HeldAdamW(torch.optim.AdamW):
    """AdamW that can be told to let a step pass: weights, moments and step count stay as they are."""

    held = False

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """As AdamW's, or nothing."""
        return None if self.held else super().step(closure)


def optimizer_for(
    model: nn.Module, settings: OptimizerSettings, arrange: Callable[[Groups], Groups] | None = None
) -> HeldAdamW:
    """AdamW over two groups: matrices decay; biases, norms and single vectors don't. `arrange` may divide them more."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: Groups = [
        {"name": "matrices", "params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"name": "vectors", "params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in (arrange(groups) if arrange else groups) if group["params"]]
    return HeldAdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True)
