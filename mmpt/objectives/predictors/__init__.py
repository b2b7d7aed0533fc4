"""Who predicts: a head on each token, or a decoder over all of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from mmpt.config import Component
from mmpt.encoders import Encoder
from mmpt.tokens import Content, Scored, Shown, Tokens


class Latents(NamedTuple):
    """What the trunk made of a step, as a predictor sees it."""

    own: Float[Tensor, "B K D"]  # of this stream's shown tokens
    shown: Shown
    every: Tokens  # latents of all streams in `x`
    draw: Int[Tensor, " B"]
    inner: Mapping[int, Float[Tensor, "B K D"]] | None = None  # `own` as blocks gave it, the last with the final norm


class Predictor(nn.Module, ABC):
    """Latents -> P numbers for each scored token. Built with the stream's encoder, the width D and the target's size P.

    `mixes_tokens` says that it can place hidden tokens in context itself; without it, nothing may be dropped.
    `entry_parts` names what comes before its first block, which a second predictor of the stream may share.
    `by_parts` says that it is built with the sizes of the target's parts instead of P, their sum.
    `layers` are the blocks of the trunk, from 1, whose output it finds in `inner`.
    """

    mixes_tokens: bool
    entry_parts: tuple[str, ...] = ()
    by_parts = False
    layers: tuple[int, ...] = ()

    @abstractmethod
    def forward(self, latents: Latents, content: Content, scored: Scored) -> Float[Tensor, "M P"]:
        """Of `content` only places, validity and documents may be used, never the values."""


def build_predictor(
    part: Component[Predictor], encoder: Encoder, width: int, size: int, parts: tuple[int, ...] = ()
) -> Predictor:
    """With what it is built with; `parts` are those of the target's `size` numbers that are scored apart, if any."""
    return part.build(encoder, width, (parts or (size,)) if part.target.by_parts else size)
