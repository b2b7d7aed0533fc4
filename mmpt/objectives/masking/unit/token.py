"""Every token for itself."""

import torch
from jaxtyping import Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.objectives.masking.unit import Unit
from mmpt.tokens import StreamContext


class TokenUnit(Unit):
    """Single tokens: BERT's and MAE's choice."""

    tokens = 1

    def __init__(self, modality: Modality) -> None:
        pass

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """0..N-1."""
        valid = context.content.valid
        return torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
