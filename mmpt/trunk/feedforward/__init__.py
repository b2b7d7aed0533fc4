"""What stands behind attention in a block."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class FeedForward(nn.Module, ABC):
    """Token by token: x -> its change, and a balance loss (None where nothing is routed). Built with the width D."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "B S D"], valid: Bool[Tensor, "B S"], stream: Int[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, ""] | None]:
        """Padding (not valid) must change nothing but itself."""
