"""What is hidden together."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmpt.tokens import StreamContext


class Spans(NamedTuple):
    """What is drawn where hidden spans may overlap: their first tokens."""

    fits: Bool[Tensor, "B N"]  # a span that begins here
    number: Int[Tensor, " B"]  # of spans, no more than fit
    length: int


class Unit(ABC):
    """A partition of every row into units; built with the stream's modality.

    `tokens` is how many every unit has, where all have as many in rows without padding: a share then fixes
    the number of hidden units, and tokens, exactly. None where units differ. `overlapping` says that what is drawn is
    where spans begin, see `spans`.
    """

    tokens: int | None = None
    overlapping = False

    @abstractmethod
    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """The number, in 0..N-1, of the unit that each token belongs to; never across documents."""

    def spans(self, context: StreamContext, share: Float[Tensor, " B"]) -> Spans | None:
        """Of overlapping ones: then `units` are single tokens, and the drawn ones begin spans."""
        return None
