"""Numbering the runs that a row falls into."""

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
