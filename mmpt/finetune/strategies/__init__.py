"""What of the model is trained, and how gently."""

from abc import ABC, abstractmethod

from mmpt.downstream.encoder import Encoder
from mmpt.model import MaskedModel


class Strategy(ABC):
    """Works on a backbone and a head, all of whose weights are trainable; the head's are fresh, if not `fitted`.

    Args of every strategy:
        learning_rate: where the fit has none of its own.
    """

    learning_rate: float
    pool = ""  # that the strategy brings along; empty: the task's
    ranks = True  # whether it works on several
    fitted = False  # whether it begins with all weights of a fitted task, head and all, instead of the encoder's

    @abstractmethod
    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """Freeze and wrap; the encoder is what the model's backbone is a copy of."""

    @abstractmethod
    def scales(self, model: MaskedModel) -> dict[str, float]:
        """Shares of the learning rate by parameter name; 1 where there is none."""

    @abstractmethod
    def finish(self, model: MaskedModel) -> None:
        """Leave plain layers behind that compute the same."""


def freeze_backbone(model: MaskedModel) -> None:
    """Only the head is left to train."""
    model.backbone.requires_grad_(False)
