"""Where hiding is preferred."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from mmpt.tokens import StreamContext


class Importance(ABC):
    """A weight a token; a unit's weight is the mean of its tokens'. Built with the stream's modality.

    `guided` says that it asks a teacher what to hide: the context then has a predicted loss.
    """

    guided = False

    @abstractmethod
    def weight(self, context: StreamContext) -> Float[Tensor, "B N"] | None:
        """float64, not negative; None means all alike. The context has the units and the budget of this draw.

        Of weight 0 is hidden only when nothing else is left, of infinite weight before anything else.
        """
