"""What is hidden together."""

from abc import ABC, abstractmethod

from jaxtyping import Int
from torch import Tensor

from mmpt.tokens import StreamContext


class Unit(ABC):
    """A partition of every row into units; built with the stream's modality.

    `single` says that every unit is one token, so that a share fixes the number of hidden tokens exactly.
    """

    single = False

    @abstractmethod
    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """The number, in 0..N-1, of the unit that each token belongs to; never across documents."""
