"""Where hiding is preferred."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from mmpt.tokens import StreamContext


class Importance(ABC):
    """A weight a token; a unit's weight is the mean of its tokens'. Built with the stream's modality."""

    @abstractmethod
    def weight(self, context: StreamContext) -> Float[Tensor, "B N"] | None:
        """float64, not negative; 0 is hidden only when nothing else is left. None means all alike."""
