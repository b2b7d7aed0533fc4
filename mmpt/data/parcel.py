"""How a worker hands a micro-batch over: all its tensors in one piece of shared memory.

PyTorch sends every tensor by itself, with a file handle that the training process has to fetch and map: a micro-batch
of a dozen small tensors costs it several milliseconds. One piece costs one, and is pinned at once.
"""

import io
import pickle
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line, and what any dtype asks for

Place = tuple[int, int, torch.dtype, torch.Size]  # first byte, last byte, and how to read what lies between


class Parcel(NamedTuple):
    """A value whose tensors lie one behind the other."""

    contents: Tensor  # uint8
    value: bytes  # pickled, with places for tensors


def packed(value: object) -> Parcel:
    """A copy of the tensors (strided ones become contiguous), and the rest pickled."""
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(value)
    contents = torch.empty(packer.size, dtype=torch.uint8)
    for tensor, (first, last, *_) in packer.tensors:
        contents[first:last] = tensor.reshape(-1).view(torch.uint8)
    return Parcel(contents, file.getvalue())


def unpacked(parcel: Parcel) -> Any:
    """The value; its tensors are views of the parcel's contents, pinned if those are."""
    return _Unpacker(parcel).load()


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.size = 0
        self.tensors: list[tuple[Tensor, Place]] = []

    def persistent_id(self, value: object) -> Place | None:
        if not isinstance(value, Tensor):
            return None
        place = (self.size, self.size + value.nbytes, value.dtype, value.shape)
        self.tensors.append((value, place))
        self.size += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
        return place


class _Unpacker(pickle.Unpickler):
    def __init__(self, parcel: Parcel) -> None:
        super().__init__(io.BytesIO(parcel.value))
        self.contents = parcel.contents

    def persistent_load(self, place: Place) -> Tensor:
        first, last, dtype, shape = place
        return self.contents[first:last].view(dtype).view(shape)
