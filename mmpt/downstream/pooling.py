"""Latents of every token -> what a user wants of a sample."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmpt.errors import DataError


class StreamLatents(NamedTuple):
    """One stream of some samples after the trunk."""

    latents: Float[Tensor, "B N D"]
    valid: Bool[Tensor, "B N"]  # not padding, and not absent from the sample
    observed: Bool[Tensor, "B N"]  # valid, and neither a class nor a separator token
    place: Int[Tensor, "B N"]  # position inside the stream


def mean_pool(streams: Mapping[str, StreamLatents]) -> Float[Tensor, "B D"]:
    """Mean over a row's observed tokens of all streams; over its valid ones where none is observed."""
    latents, valid, observed, _ = (torch.cat(column, dim=1) for column in zip(*streams.values(), strict=True))
    return _mean(latents, torch.where(observed.any(dim=1, keepdim=True), observed, valid), "no tokens")


def mean_std_pool(streams: Mapping[str, StreamLatents]) -> Float[Tensor, "B F"]:
    """Mean and standard deviation of the same tokens, side by side (F = 2 D): what a row holds and how it varies."""
    mean = mean_pool(streams)
    squares = {name: own._replace(latents=(own.latents - mean.unsqueeze(1)).square()) for name, own in streams.items()}
    return torch.cat([mean, mean_pool(squares).sqrt()], dim=1)


def class_pool(streams: Mapping[str, StreamLatents]) -> Float[Tensor, "B D"]:
    """Mean over a row's class tokens: those that open a stream and stand for no measurement."""
    latents, valid, observed, place = (torch.cat(column, dim=1) for column in zip(*streams.values(), strict=True))
    return _mean(latents, valid & ~observed & (place == 0), "no class token")


def _mean(latents: Float[Tensor, "B N D"], chosen: Bool[Tensor, "B N"], lack: str) -> Float[Tensor, "B D"]:
    counts = chosen.sum(dim=1, keepdim=True)
    if not counts.all():
        raise DataError(f"row {int((counts == 0).nonzero()[0, 0])} of the batch has {lack}")
    return torch.where(chosen.unsqueeze(2), latents, 0.0).sum(dim=1) / counts


def join(parts: Sequence[Mapping[str, StreamLatents]]) -> dict[str, StreamLatents]:
    """Rows of several batches, padded to the longest; a stream that a batch lacks is all padding there."""
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        shapes = [part[name].latents.shape for part in parts if name in part]
        size, width = max(shape[1] for shape in shapes), shapes[0][2]
        padded = [_padded(part, name, size, width) for part in parts]
        joined[name] = StreamLatents(*(torch.cat(column) for column in zip(*padded, strict=True)))
    return joined


def _padded(part: Mapping[str, StreamLatents], name: str, size: int, width: int) -> StreamLatents:
    rows = len(next(iter(part.values())).valid)
    no = torch.zeros(rows, size, dtype=torch.bool)
    wide = StreamLatents(torch.zeros(rows, size, width), no, no.clone(), torch.zeros_like(no, dtype=torch.int64))
    for whole, own in zip(wide, part.get(name, ()), strict=False):
        whole[:, : own.shape[1]] = own
    return wide
