"""From the latents of all of a sample's streams to one vector: what objectives train and what tasks look at."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

RENAMED = {"class": "class_token"}  # what recipes say for it as well, as `encode(pool="class")` does


class TokenLatents(NamedTuple):
    """One stream of some samples after the trunk: what pooling looks at."""

    latents: Float[Tensor, "B N D"]
    valid: Bool[Tensor, "B N"]  # not padding, and not absent from the sample
    observed: Bool[Tensor, "B N"]  # valid, and neither a class nor a separator token
    place: Int[Tensor, "B N"]  # position inside the stream


class Pool(nn.Module, ABC):
    """Built with the width D. One that has a loss of its own is a `LossBeside`, too."""

    streams = 0  # how many it joins, which then are all there, if only as padding; 0: any number

    @abstractmethod
    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
        """Padding and absent streams must change nothing."""


def side_by_side(streams: Mapping[str, TokenLatents]) -> TokenLatents:
    """All streams as one."""
    return TokenLatents(*(torch.cat(column, dim=1) for column in zip(*streams.values(), strict=True)))


def without_padding(every: TokenLatents) -> TokenLatents:
    """With zeros for what is not valid: whatever stood there never reaches a product, nor a weight's gradient."""
    return every._replace(latents=torch.where(every.valid.unsqueeze(2), every.latents, 0.0))


def observed_mean(streams: Mapping[str, TokenLatents]) -> tuple[Float[Tensor, "B D"], Int[Tensor, "B 1"]]:
    """Mean over a row's observed tokens of all streams, over its valid ones where none is; and how many it is of.

    Zeros of none.
    """
    every = side_by_side(streams)
    return _mean(every.latents, torch.where(every.observed.any(dim=1, keepdim=True), every.observed, every.valid))


def class_mean(streams: Mapping[str, TokenLatents]) -> tuple[Float[Tensor, "B D"], Int[Tensor, "B 1"]]:
    """Mean over the tokens that open a stream and stand for no measurement, and how many it is of; zeros of none."""
    every = side_by_side(streams)
    return _mean(every.latents, every.valid & ~every.observed & (every.place == 0))


def _mean(
    latents: Float[Tensor, "B N D"], chosen: Bool[Tensor, "B N"]
) -> tuple[Float[Tensor, "B D"], Int[Tensor, "B 1"]]:
    counts = chosen.sum(dim=1, keepdim=True)
    return torch.where(chosen.unsqueeze(2), latents, 0.0).sum(dim=1) / counts.clamp(min=1), counts
