"""What is predicted, and how wrong a prediction is."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mmpt.tokens import StreamContext


class Target(nn.Module, ABC):
    """Owns its values and its distance. Built with the stream's modality.

    `size` is how many numbers a prediction has: V classes, or P numbers.
    """

    size: int

    @abstractmethod
    def forward(self, context: StreamContext) -> Shaped[Tensor, "B N ..."]:
        """The true values of every token."""

    @abstractmethod
    def loss(self, prediction: Float[Tensor, "M P"], target: Shaped[Tensor, "M ..."]) -> Float[Tensor, " M"]:
        """One float32 number a scored token; lowest where the prediction is perfect."""
