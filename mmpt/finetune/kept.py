"""Frozen linear layers of which some weights are kept and the others count as 0, by learned scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

from mmpt.errors import ConfigError
from mmpt.model import MaskedModel

Part = Literal["attention", "feedforward", "both"]


class Kept(nn.Module, ABC):
    """Weight -> weight times a 0 or 1 by the score of each.

    The gradient of the zeros and ones goes to what they were decided by as it is (straight through: Bengio et al.
    2013), so that a score's is that of its kept weight times the weight. Scores are a vector, which does not decay:
    pulled towards 0 they would say something else by themselves.

    Args:
        scores: to begin with, one a weight.
    """

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores.flatten())

    @abstractmethod
    def decided(self) -> tuple[Bool[Tensor, " weights"], Float[Tensor, " weights"]]:
        """Which weights are kept, and the numbers that this was decided by."""

    def forward(self, weight: Tensor) -> Tensor:
        """Of the weight's shape."""
        kept, by = self.decided()
        return weight * (kept.to(by.dtype) + (by - by.detach())).view_as(weight)


class AboveThreshold(Kept):
    """Those whose score is above a threshold.

    Scores begin on both sides of it and close to it (the source's double uniform): far from it, steps of a usual size
    would never flip one. Drawn without replacement, so that the share that begins at 0 is exact.

    Args:
        weight: of the layer. off: share that begins at 0. threshold: of the scores.
    """

    def __init__(self, weight: Tensor, off: float, threshold: float) -> None:
        scores = torch.empty_like(weight).uniform_(1.1 * threshold, 1.5 * threshold).flatten()
        chosen = torch.randperm(weight.numel(), device=weight.device)[: int(off * weight.numel())]
        scores[chosen] = torch.empty_like(scores[chosen]).uniform_(0.5 * threshold, 0.9 * threshold)
        super().__init__(scores)
        self.threshold = threshold

    def decided(self) -> tuple[Bool[Tensor, " weights"], Float[Tensor, " weights"]]:
        """By the scores themselves."""
        return self.scores > self.threshold, self.scores


class LargestScores(Kept):
    """All but the int((1 - share) * n) whose scores are smallest in magnitude; of ties any, so that the count is exact.

    Args:
        weight: of the layer, with normal scores to begin with. share: that is kept.
    """

    def __init__(self, weight: Tensor, share: float) -> None:
        super().__init__(torch.randn_like(weight))
        self.off = int((1 - share) * weight.numel())

    def decided(self) -> tuple[Bool[Tensor, " weights"], Float[Tensor, " weights"]]:
        """By the magnitudes: a score's gradient has its sign."""
        by = self.scores.abs()
        least = by.detach().topk(self.off, largest=False).indices
        return torch.ones_like(by, dtype=torch.bool).scatter(0, least, value=False), by


def block_layers(
    model: MaskedModel, *, part: Part = "both", first: int = 0, last: int | None = None
) -> list[nn.Linear]:
    """Linear layers of the trunk's blocks; raises ConfigError where there is none.

    Args:
        model: whose trunk it is.
        part: of each block.
        first: block, from 0.
        last: likewise, itself included; None: the trunk's last.
    """
    blocks = list(getattr(model.backbone.trunk, "blocks", []))
    end = len(blocks) if last is None else last + 1
    parts = ("attention", "feedforward") if part == "both" else (part,)
    within = [getattr(block, name) for block in blocks[first:end] for name in parts]
    layers = [module for own in within for module in own.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigError(
            f"there is no linear layer to mask from block {first} on; the trunk's blocks are 0 to {len(blocks) - 1}: "
            "begin lower"
        )
    return layers


def wrap(layers: Sequence[nn.Linear], kept: Callable[[Tensor], Kept]) -> None:
    """Scores for every layer's weight."""
    for layer in layers:
        register_parametrization(layer, "weight", kept(layer.weight.detach()))


def unwrap(layers: Sequence[nn.Linear]) -> None:
    """Plain layers with zeros where weights were not kept."""
    for layer in layers:
        if is_parametrized(layer, "weight"):
            remove_parametrizations(layer, "weight", leave_parametrized=True)
