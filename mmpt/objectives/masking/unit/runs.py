"""Numbering the units that a row falls into."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmpt.tokens import Content


def numbered(starts: Bool[Tensor, "B N"], content: Content) -> Int[Tensor, "B N"]:
    """Number the runs that begin where `starts` says, and wherever a document or an unobserved token begins."""
    broken = torch.ones_like(starts)
    broken[:, 1:] = (content.segment[:, 1:] != content.segment[:, :-1]) | (
        content.observed[:, 1:] != content.observed[:, :-1]
    )
    return (starts | broken | ~content.observed).cumsum(1) - 1


def dense(labels: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """Renumber a row's labels 0, 1, 2 ... by size, so that they fit in N slots."""
    ordered, order = labels.sort(dim=1, stable=True)
    new = torch.zeros_like(ordered)
    new[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    return torch.empty_like(new).scatter(1, order, new)


def dense_valid(labels: Int[Tensor, "B N"], content: Content) -> Int[Tensor, "B N"]:
    """The same with padding in a unit of its own behind all others, whose numbers it must not move."""
    return dense(labels.masked_fill(~content.valid, torch.iinfo(labels.dtype).max))
