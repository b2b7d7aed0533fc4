"""Latents of every token -> what a user wants of a sample."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmpt.errors import DataError
from mmpt.pools import Pool, TokenLatents, class_mean, observed_mean, side_by_side
from mmpt.pools.class_token import ClassTokenPool


class LacksTokens(DataError):
    """A row of a batch without a token to pool; who knows which sample the row is, says so."""

    def __init__(self, row: int, lack: str) -> None:
        super().__init__(f"row {row} of the batch has {lack}")
        self.row, self.lack = row, lack


class StreamLatents(NamedTuple):
    """One stream of some samples after the trunk."""

    latents: Float[Tensor, "B N D"]
    valid: Bool[Tensor, "B N"]  # not padding, and not absent from the sample
    observed: Bool[Tensor, "B N"]  # valid, and neither a class nor a separator token
    place: Int[Tensor, "B N"]  # position inside the stream
    names: list[list[str]]  # of every token of every sample, for people; empty for padding
    pooled: Float[Tensor, "B D"]  # mean over the stream's observed tokens; NaN where a sample lacks the stream


class Features(NamedTuple):
    """B samples, encoded: one vector of each, `pooled` (B, D), and by stream the latents of its tokens (B, N, D)."""

    pooled: Float[Tensor, "B D"]  # mean over the observed tokens of all of a sample's streams
    streams: dict[str, StreamLatents]


def mean_pool(streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
    """Mean over a row's observed tokens of all streams; over its valid ones where none is observed."""
    return _checked(*observed_mean(streams), "no tokens")


def mean_std_pool(streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B F"]:
    """Mean and standard deviation of the same tokens, side by side (F = 2 D): what a row holds and how it varies."""
    mean = mean_pool(streams)
    squares = {name: own._replace(latents=(own.latents - mean.unsqueeze(1)).square()) for name, own in streams.items()}
    return torch.cat([mean, mean_pool(squares).sqrt()], dim=1)


def class_pool(streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
    """Mean over a row's class tokens: those that open a stream and stand for no measurement."""
    return _checked(*class_mean(streams), "no class token")


def pool_by(pool: Pool, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
    """By a pool of a run, where every row has what it looks at."""
    if isinstance(pool, ClassTokenPool):
        return class_pool(streams)
    return _checked(pool(streams), side_by_side(streams).valid.sum(dim=1, keepdim=True), "no tokens")


def describe(streams: Mapping[str, TokenLatents], names: Mapping[str, list[list[str]]]) -> Features:
    """The mean over all streams, and every stream with its own mean and the names of its tokens."""
    own = {name: StreamLatents(*part, names[name], _stream_mean(part)) for name, part in streams.items()}
    return Features(mean_pool(streams), own)


def _stream_mean(part: TokenLatents) -> Float[Tensor, "B D"]:
    pooled, counts = observed_mean({"": part})
    return torch.where(counts > 0, pooled, torch.nan)


def _checked(pooled: Float[Tensor, "B D"], counts: Int[Tensor, "B 1"], lack: str) -> Float[Tensor, "B D"]:
    if not counts.all():
        raise LacksTokens(int((counts == 0).nonzero()[0, 0]), lack)
    return pooled


def join(parts: Sequence[Features], order: Int[Tensor, " B"], width: int) -> Features:
    """Rows of several batches in another order, padded to the longest; what a batch lacks is all padding there."""
    if not parts:
        return Features(torch.empty(0, width), {})
    names = dict.fromkeys(name for part in parts for name in part.streams)
    streams = {name: _joined(_padded(parts, name), order) for name in names}
    return Features(torch.cat([part.pooled for part in parts])[order], streams)


def _joined(parts: Sequence[StreamLatents], order: Int[Tensor, " B"]) -> StreamLatents:
    columns = {
        column: torch.cat([getattr(part, column) for part in parts])[order]
        for column in StreamLatents._fields
        if column != "names"
    }
    names = [row for part in parts for row in part.names]
    return StreamLatents(**columns, names=[names[number] for number in order.tolist()])


def _padded(parts: Sequence[Features], name: str) -> list[StreamLatents]:
    """One stream of every batch, all of one length."""
    size = max(part.streams[name].valid.shape[1] for part in parts if name in part.streams)
    padded = []
    for part in parts:
        rows, width = part.pooled.shape
        no = torch.zeros(rows, size, dtype=torch.bool)
        wide = TokenLatents(torch.zeros(rows, size, width), no, no.clone(), torch.zeros_like(no, dtype=torch.int64))
        own, names, pooled = (
            part.streams.get(name),
            [[""] * size for _ in range(rows)],
            torch.full_like(part.pooled, torch.nan),
        )
        if own:
            for whole, short in zip(wide, own[:4], strict=True):
                whole[:, : own.valid.shape[1]] = short
            names = [row + [""] * (size - len(row)) for row in own.names]
            pooled = own.pooled
        padded.append(StreamLatents(*wide, names, pooled))
    return padded
