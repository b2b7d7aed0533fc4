"""AdamW over the groups of parameters that a model has."""

from collections.abc import Callable, Mapping
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
    model: nn.Module,
    settings: OptimizerSettings,
    scales: Mapping[str, float] | None = None,
    arrange: Callable[[Groups], Groups] | None = None,
) -> HeldAdamW:
    """AdamW over groups: matrices decay; biases, norms and single vectors don't.

    Args:
        model: whose trainable parameters these are.
        settings: of AdamW.
        scales: shares of the learning rate by parameter name; those it lacks have all of it.
        arrange: divides the groups more.
    """
    found: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 1.0 if scales is None else scales.get(name, 1.0)
            found.setdefault((parameter.ndim < 2, scale), []).append(parameter)
    groups: Groups = [
        {
            "name": f"{'vectors' if single else 'matrices'} x {scale:g}",
            "params": own,
            "weight_decay": 0.0 if single else settings.weight_decay,
            "lr_scale": scale,
        }
        for (single, scale), own in sorted(found.items(), key=lambda item: item[0])
    ]
    groups = arrange(groups) if arrange else groups
    return HeldAdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True)
