"""The same share from first step to last, as in BERT (15 %) and MAE (75 %)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mmpt.errors import ConfigError
from mmpt.objectives.masking.ratio import Ratio
from mmpt.tokens import StreamContext


class ConstantRatio(Ratio):
    """A fixed share."""

    def __init__(self, *, value: float) -> None:
        if not 0 < value < 1:
            raise ConfigError(f"value: expected a share between 0 and 1, got {value}")
        self.value = value

    def share(self, context: StreamContext) -> Float[Tensor, " B"]:
        """The value, for each row."""
        return torch.full_like(context.draw, self.value, dtype=torch.float64)

    def constant(self, progress: float) -> float | None:
        """Always known."""
        return self.value
