"""What is hidden together."""

from abc import ABC, abstractmethod

from jaxtyping import Int
from torch import Tensor

from mmpt.tokens import StreamContext


class Unit(ABC):
    """A partition of every row into units; built with the stream's modality.

    `tokens` is how many every unit has, where all have as many in rows without padding: a share then fixes
    the number of hidden units, and tokens, exactly. None where units differ.
    """

    tokens: int | None = None

    @abstractmethod
    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """The number, in 0..N-1, of the unit that each token belongs to; never across documents."""
