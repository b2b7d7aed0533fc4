"""A share that moves from a start to an end over the run, as in masking-ratio decay (Yang et al. 2022)."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmpt.errors import ConfigError
from mmpt.objectives.masking.ratio import Ratio
from mmpt.tokens import StreamContext


class ScheduleRatio(Ratio):
    """From `start` at progress 0 to `end` at progress 1, along a line or half a cosine."""

    def __init__(self, *, start: float, end: float, shape: Literal["linear", "cosine"] = "linear") -> None:
        for name, value in (("start", start), ("end", end)):
            if not 0 < value < 1:
                raise ConfigError(f"{name}: expected a share between 0 and 1, got {value}")
        self.start, self.end, self.shape = start, end, shape

    def share(self, context: StreamContext) -> Float[Tensor, " B"]:
        """The same for every row of a step."""
        return torch.full_like(context.draw, self.constant(context.progress), dtype=torch.float64)

    def constant(self, progress: float) -> float:
        """The share at this progress."""
        done = min(max(progress, 0.0), 1.0)
        gone = done if self.shape == "linear" else (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * gone
