"""How much is hidden."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor


class Ratio(ABC):
    """The share of the maskable tokens that is hidden, row by row."""

    @abstractmethod
    def share(self, draw: Int[Tensor, " B"], progress: float) -> Float[Tensor, " B"]:
        """float64 in [0, 1], one a row."""

    @abstractmethod
    def constant(self, progress: float) -> float | None:
        """The share, where it is the same for every row of this step; else None."""
