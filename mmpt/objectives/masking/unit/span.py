"""Spans of neighbouring tokens, of fixed or geometric length (SpanBERT, Joshi et al. 2020, section 3.1)."""

import math
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.masking.unit.runs import numbered
from mmpt.randomness import fold as fold_key
from mmpt.randomness import uniform, uniform_rows
from mmpt.tokens import StreamContext


class SpanUnit(Unit):
    """A row is cut into spans, none across documents.

    Args:
        length: tokens of a span; the mean of the geometric distribution before it is clipped.
        lengths: fixed (the first span starts at a random phase) or geometric.
        longest: geometric lengths are clipped to this.
    """

    def __init__(
        self,
        modality: Modality,
        *,
        length: int = 5,
        lengths: Literal["fixed", "geometric"] = "geometric",
        longest: int = 10,
    ) -> None:
        if length < 1 or longest < 1:
            raise ConfigError(f"length, longest: expected at least 1, got {length} and {longest}")
        self.length, self.lengths, self.longest = length, lengths, longest

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """Consecutive spans."""
        size = context.content.valid.shape[1]
        place = torch.arange(size, device=context.draw.device)
        if self.lengths == "fixed":
            phase = (uniform(fold_key(context.draw, "span phase")) * self.length).long()
            starts = (place + phase.unsqueeze(1)) % self.length == 0
        else:
            drawn = uniform_rows(context.draw, size, "span length")
            stays = math.log1p(-1 / self.length) if self.length > 1 else -math.inf
            sizes = (1 + (drawn.log() / stays).long()).clamp(max=self.longest)
            ends = sizes.cumsum(1)
            span = torch.searchsorted(ends, place.expand(len(ends), -1).contiguous(), right=True)
            starts = torch.ones_like(span, dtype=torch.bool)
            starts[:, 1:] = span[:, 1:] != span[:, :-1]
        return numbered(starts, context.content)
