"""A share drawn anew for every row, as masked diffusion models do (Sahoo et al. 2024, section 3)."""

from jaxtyping import Float
from torch import Tensor

from mmpt import randomness
from mmpt.errors import ConfigError
from mmpt.objectives.masking.ratio import Ratio
from mmpt.tokens import StreamContext


class UniformRatio(Ratio):
    """Uniform between `low` and `high`."""

    def __init__(self, *, low: float = 0.0, high: float = 1.0) -> None:
        if not 0 <= low < high <= 1:
            raise ConfigError(f"low, high: expected 0 <= low < high <= 1, got {low} and {high}")
        self.low, self.high = low, high

    def share(self, context: StreamContext) -> Float[Tensor, " B"]:
        """One draw a row."""
        return self.low + (self.high - self.low) * randomness.uniform(randomness.fold(context.draw, "ratio"))

    def constant(self, progress: float) -> None:
        """Rows differ."""
