"""The same share from first step to last, as in BERT (15 %) and MAE (75 %)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmpt.errors import ConfigError
from mmpt.objectives.masking.ratio import Ratio


class ConstantRatio(Ratio):
    """A fixed share."""

    def __init__(self, *, value: float) -> None:
        if not 0 < value < 1:
            raise ConfigError(f"value: expected a share between 0 and 1, got {value}")
        self.value = value

    def share(self, draw: Int[Tensor, " B"], progress: float) -> Float[Tensor, " B"]:
        """The value, for each row."""
        return torch.full(draw.shape, self.value, dtype=torch.float64, device=draw.device)

    def constant(self, progress: float) -> float | None:
        """Always known."""
        return self.value
