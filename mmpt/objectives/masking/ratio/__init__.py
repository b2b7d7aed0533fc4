"""How much is hidden."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from mmpt.tokens import StreamContext


class Ratio(ABC):
    """The share of the maskable tokens that is hidden, row by row.

    `shared` says that one budget is shared by all streams of a row: a stream may be hidden altogether or not at all,
    and all streams of a recipe have to say the same.
    """

    shared = False

    @abstractmethod
    def share(self, context: StreamContext) -> Float[Tensor, " B"]:
        """float64 in [0, 1], one a row."""

    @abstractmethod
    def constant(self, progress: float) -> float | None:
        """The share, where it is the same for every row of this step; else None."""
