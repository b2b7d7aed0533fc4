"""What is predicted, and how wrong a prediction is."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mmpt.config import Component
from mmpt.encoders import Modality
from mmpt.tokens import StreamContext


class Target(nn.Module, ABC):
    """Owns its values and its distance. Built with the stream's modality and, where it is `latent`, with the width D.

    `size` is how many numbers a prediction has: V classes, or P numbers; `parts` those of each label set, where there
    are label sets.
    `latent` says that its values are of the model's own making, so that both they and the predictions can collapse.
    `quantises` says that they are codes of a quantiser that only a contrastive loss trains.
    `layers` is of how many of the trunk's last blocks it asks what a teacher makes of the complete row.
    """

    size: int
    parts: tuple[int, ...] = ()
    latent = False
    quantises = False
    layers = 0

    @abstractmethod
    def forward(self, context: StreamContext) -> Shaped[Tensor, "B N ..."]:
        """The true values of every token."""

    @abstractmethod
    def loss(self, prediction: Float[Tensor, "M P"], target: Shaped[Tensor, "M ..."]) -> Float[Tensor, " M"]:
        """One float32 number a scored token; lowest where the prediction is perfect."""


def build_target(part: Component[Target], modality: Modality, width: int) -> Target:
    """With what it is built with."""
    return part.build(modality, width) if part.target.latent else part.build(modality)
