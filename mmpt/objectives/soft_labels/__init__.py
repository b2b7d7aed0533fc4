"""What a hidden token might be beside what it is: a distribution over classes, mixed with the one that is true."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from mmpt.errors import ConfigError
from mmpt.objectives import Hidden
from mmpt.tokens import Batch


class SoftLabels(nn.Module, ABC):
    """Built with the stream's name, its modality and its target, which is of classes.

    A token's loss becomes (1 - share) times what it is plus share times KL(soft label, prediction) in nats.

    Args:
        share: of the soft labels in the loss, from 0 to 1.
    """

    share: float

    def set_share(self, share: float) -> None:
        """Raises ConfigError for what is no share."""
        if not 0 <= share <= 1:
            raise ConfigError(f"share: expected a number from 0 to 1, got {share}")
        self.share = share

    @abstractmethod
    def forward(self, batch: Batch, hidden: Hidden, progress: float) -> Float[Tensor, "M V"]:
        """Logarithms of the classes' probabilities at the scored tokens; no gradient, and in float32."""


def divergence(soft: Float[Tensor, "M V"], prediction: Float[Tensor, "M V"]) -> Float[Tensor, " M"]:
    """KL(soft || softmax of the prediction) of each token, in nats; `soft` has logarithms."""
    return (soft.exp() * (soft - log_softmax(prediction.float(), dim=1))).sum(1)
