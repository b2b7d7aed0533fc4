"""Who predicts: a head on each token, or a decoder over all of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from mmpt.tokens import Content, Scored, Shown, Tokens


class Latents(NamedTuple):
    """What the trunk made of a step, as a predictor sees it."""

    own: Float[Tensor, "B K D"]  # of this stream's shown tokens
    shown: Shown
    every: Tokens  # latents of all streams in `x`
    draw: Int[Tensor, " B"]
    inner: Mapping[int, Float[Tensor, "B K D"]] | None = None  # `own` as blocks gave it, where asked for


class Predictor(nn.Module, ABC):
    """Latents -> P numbers for each scored token. Built with the stream's encoder, the width D and the target's size P.

    `mixes_tokens` says that it can place hidden tokens in context itself; without it, nothing may be dropped.
    `entry_parts` names what comes before its first block, which a second predictor of the stream may share.
    """

    mixes_tokens: bool
    entry_parts: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, latents: Latents, content: Content, scored: Scored) -> Float[Tensor, "M P"]:
        """Of `content` only places, validity and documents may be used, never the values."""
