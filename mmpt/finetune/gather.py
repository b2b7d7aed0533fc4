"""Rows of all ranks, with gradients that find their way back."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed import all_gather_into_tensor, all_reduce, get_rank, get_world_size, is_initialized


class _Gather(torch.autograd.Function):
    """Backward adds up what all ranks' losses say of this rank's rows.

    An all-reduce instead of a reduce-scatter: the rows are small, and every backend has it.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Rank after rank."""
        every = rows.new_empty(get_world_size() * len(rows), *rows.shape[1:])
        all_gather_into_tensor(every, rows.contiguous())
        return every

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Of the own rows."""
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        all_reduce(total)
        return total.chunk(get_world_size())[get_rank()]


def of_all_ranks(rows: Shaped[Tensor, "B ..."]) -> tuple[Shaped[Tensor, "A ..."], int]:
    """The rows of all ranks, which have as many each, and where the own ones begin; A is ranks times B."""
    if not is_initialized() or get_world_size() == 1:
        return rows, 0
    every: Any = _Gather.apply(rows)
    return every, get_rank() * len(rows)
