"""What stands behind attention in a block."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from mmpt.trunk import Routing, Surroundings


class FeedForward(nn.Module, ABC):
    """Token by token: x -> its change, and what a gate says (None without one). Built with D and how many streams."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B S D"], around: Surroundings) -> tuple[Float[Tensor, "B S D"], Routing | None]:
        """Padding (not valid) must change nothing but itself."""
