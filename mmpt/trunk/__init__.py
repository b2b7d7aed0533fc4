"""The trunk that all modalities share."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from mmpt.tokens import Tokens


class TrunkOutput(NamedTuple):
    """Latents of every token and, of layers that route, the sum of their balance losses."""

    latents: Float[Tensor, "B S D"]
    balance: Float[Tensor, ""]


class Trunk(nn.Module, ABC):
    """Tokens of all streams in one sequence -> latents of the same shape.

    `streams` is the number of modality ids; `width` is D.
    """

    width: int

    @abstractmethod
    def forward(self, tokens: Tokens, draw: Int[Tensor, " B"]) -> TrunkOutput:
        """`draw` is the key of each row's random numbers."""
