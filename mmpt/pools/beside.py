"""Losses that parts of a head have beside the task's."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from mmpt.tokens import Content


class LossBeside(ABC):
    """A module of a head, with a loss of its own and perhaps weights that the model's optimiser does not know.

    `Supervised` finds it among the head's modules. A forward pass in training leaves with the part what its loss is of;
    an update is one batch, so that nothing has to be kept for longer. Weights that the part trains by itself must not
    ask for a gradient and, like whatever else it has to remember, be parameters or buffers: those are in checkpoints.
    """

    name: str  # of the loss; no stream's, nor the task's
    weight: float  # of the loss in the total; at 0 the part is never asked for it

    @abstractmethod
    def counted(self, streams: Mapping[str, Content]) -> Bool[Tensor, " B"]:
        """Rows that have what the loss needs; it is divided by their number over all ranks."""

    @abstractmethod
    def loss(self, counted: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Of every row of the forward pass before. Rows without a label, as those of padding, are not counted."""

    @abstractmethod
    def after_update(self) -> None:
        """The model's weights have moved, on all ranks: the part may move its own."""
