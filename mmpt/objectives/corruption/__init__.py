"""What is shown instead of what is hidden."""

from abc import ABC, abstractmethod

from jaxtyping import Bool
from torch import Tensor, nn

from mmpt.tokens import Shown, StreamContext, Tokens


class Corruption(nn.Module, ABC):
    """Tokens and what is hidden -> what the trunk sees. Built with the width D.

    `drops` says that what is shown is the rest, as it was: hidden tokens need not even be embedded, and only a
    predictor that mixes tokens can place them again.
    """

    drops: bool

    @abstractmethod
    def forward(self, tokens: Tokens, hidden: Bool[Tensor, "B N"], context: StreamContext) -> Shown:
        """What is shown must not depend on the content of a hidden token, unless the method says so."""
