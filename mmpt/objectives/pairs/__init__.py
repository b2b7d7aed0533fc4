"""Losses on whether two streams of a row belong together."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmpt.errors import ConfigError
from mmpt.objectives import Hidden
from mmpt.objectives.loss_prediction import Figures
from mmpt.tokens import Batch

if TYPE_CHECKING:
    from mmpt.objectives.generated_negatives import GeneratedSettings


class PairLoss(nn.Module, ABC):
    """Mean latents of two streams -> a loss for each row. Built with the width D.

    `alone` says that each stream goes through the trunk by itself: a feature that has seen the other stream gives the
    answer away. `needs_unmatched` says that it learns nothing without rows whose halves don't belong together.
    `generated` says how the model makes such rows by itself.

    Args:
        streams: the two, in the order of the features.
        weight: of the loss in the total.
    """

    alone: bool
    needs_unmatched = False
    generated: "GeneratedSettings | None" = None

    def __init__(self, *, streams: tuple[str, ...], weight: float) -> None:
        super().__init__()
        if len(streams) != 2 or streams[0] == streams[1]:
            raise ConfigError(f"streams: expected two different streams, got {', '.join(streams) or 'none'}")
        if weight <= 0:
            raise ConfigError(f"weight: expected a positive number, got {weight}")
        self.streams, self.weight = streams, weight

    def denominator(self, there: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
        """What a micro-batch adds to that of the loss: its pairs."""
        return there.sum().float()

    @abstractmethod
    def forward(
        self,
        one: Float[Tensor, "B D"],
        other: Float[Tensor, "B D"],
        there: Bool[Tensor, " B"],
        matched: Bool[Tensor, " B"],
    ) -> tuple[Float[Tensor, " B"], Figures]:
        """A row's loss, 0 where it is not `there`, and figures for the log; `matched` rows belong together."""


def shown_in_both(pair: PairLoss, batch: Batch, hidden: dict[str, Hidden]) -> Bool[Tensor, " B"]:
    """Rows of which something is shown in both streams."""
    shown = [
        (batch.streams[name].valid & batch.streams[name].observed & ~hidden[name].hidden).any(1)
        for name in pair.streams
    ]
    return shown[0] & shown[1]


def matched_rows(batch: Batch) -> Bool[Tensor, " B"]:
    """Rows whose halves belong together: all, where nothing was replaced."""
    return torch.ones_like(batch.uid, dtype=torch.bool) if batch.matched is None else batch.matched


def mean_of(x: Float[Tensor, "B K D"], valid: Bool[Tensor, "B K"]) -> Float[Tensor, "B D"]:
    """Over the valid tokens of every row; zeros where there are none."""
    total = torch.where(valid.unsqueeze(2), x, 0.0).sum(1)
    return total / valid.sum(1, keepdim=True).clamp(min=1)
