"""Neighbouring words, up to n together (n-gram masking, as in MacBERT, Cui et al. 2020)."""

import torch
from jaxtyping import Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.masking.unit.runs import numbered
from mmpt.objectives.masking.unit.word import WordStarts
from mmpt.randomness import uniform_rows
from mmpt.tokens import StreamContext


class NgramUnit(Unit):
    """Words in groups of 1..n; a group of k words is as likely as `shares` says.

    Args:
        shares: how often a group has 1, 2, ... words; need not add up to 1.
    """

    def __init__(self, modality: Modality, *, shares: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)) -> None:
        if not shares or min(shares) < 0 or sum(shares) <= 0:
            raise ConfigError(f"shares: expected non-negative numbers, not all 0, got {shares}")
        self.starts = WordStarts(modality, "ngram")
        self.edges = torch.tensor(shares, dtype=torch.float64).cumsum(0) / sum(shares)

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """Groups of whole words."""
        words = numbered(self.starts(context.content), context.content)  # B N
        drawn = uniform_rows(context.draw, words.shape[1], "n-gram")
        sizes = 1 + torch.bucketize(drawn, self.edges.to(drawn.device)[:-1], right=True)  # B groups
        group = torch.searchsorted(sizes.cumsum(1), words.contiguous(), right=True)
        starts = torch.ones_like(words, dtype=torch.bool)
        starts[:, 1:] = group[:, 1:] != group[:, :-1]
        return numbered(starts, context.content)
