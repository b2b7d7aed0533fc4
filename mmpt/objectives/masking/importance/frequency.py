"""Rare tokens first: weight = count^-power (weighted sampling, Zhang et al. 2023)."""

from jaxtyping import Float
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError
from mmpt.objectives.masking.importance import Importance
from mmpt.tokens import StreamContext


class FrequencyImportance(Importance):
    """A power of the token's count in the training split.

    Args:
        power: 0 is uniform; 1 makes every id as likely as every other.
    """

    def __init__(self, modality: Modality, *, power: float = 0.5) -> None:
        if not isinstance(modality, Text):
            raise ConfigError("importance 'frequency' has a meaning for text only; use uniform")
        self.table = modality.token_counts().clamp(min=1).pow(-power)

    def weight(self, context: StreamContext) -> Float[Tensor, "B N"]:
        """By id."""
        self.table = self.table.to(context.content.values.device)
        return self.table[context.content.values]
