"""How a worker hands a micro-batch over: all its tensors in one piece of shared memory.

PyTorch sends every tensor by itself, with a file handle that the training process has to fetch and map: a micro-batch
of a dozen small tensors costs it several milliseconds. One piece costs one, and is pinned at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line, and what any dtype asks for


class Place(NamedTuple):
    """Where a tensor lies, and how to read what lies there."""

    first: int  # byte
    last: int
    dtype: torch.dtype
    shape: torch.Size


class Parcel(NamedTuple):
    """A value whose tensors lie one behind the other."""

    contents: Tensor  # uint8
    value: Any  # with places for tensors


def packed(value: Any) -> Parcel:
    """A copy of the tensors in the tuples, lists and dicts of `value`; strided ones become contiguous."""
    tensors: list[tuple[Tensor, Place]] = []

    def place_of(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        first = _next_start(tensors[-1][1].last) if tensors else 0
        tensors.append((part, Place(first, first + part.nbytes, part.dtype, part.shape)))
        return tensors[-1][1]

    places = _mapped(place_of, value)
    contents = torch.empty(tensors[-1][1].last if tensors else 0, dtype=torch.uint8)
    for tensor, place in tensors:
        contents[place.first : place.last] = tensor.reshape(-1).view(torch.uint8)
    return Parcel(contents, places)


def unpacked(parcel: Parcel) -> Any:
    """The value; its tensors are views of the parcel's contents, pinned if those are."""

    def tensor_at(part: Any) -> Any:
        if not isinstance(part, Place):
            return part
        return parcel.contents[part.first : part.last].view(part.dtype).view(part.shape)

    return _mapped(tensor_at, parcel.value)


def _next_start(end: int) -> int:
    return -(-end // ALIGNMENT) * ALIGNMENT


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same tuples, lists and dicts, with `change` of all that is in them."""
    if isinstance(value, dict):
        return {name: _mapped(change, part) for name, part in value.items()}
    if isinstance(value, (tuple, list)) and not isinstance(value, (Place, torch.Size)):
        parts = [_mapped(change, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return change(value)
