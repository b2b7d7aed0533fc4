"""Mask tokens kept out of the way of data: inspired by MTO (Choi et al. 2024), whose formulas are not known to us."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from mmpt.tokens import Content, Muted, Scored, gather


@dataclass(frozen=True, kw_only=True)
class MaskTokenSettings:
    """An approximation: what the paper wants of mask tokens, in formulas of ours.

    Args:
        singularity: weight of the mean, over the visible tokens of a hidden one's document, of max(0, cosine) between
            the two as they enter the trunk: a mask token is to be unlike any data.
        start, end: of the weight w that a hidden token has in the softmax of the first and the last block, beside 1
            for all others; between 0 and 1, along a line over the blocks. Trained from there on.
    """

    singularity: float = 0.1
    start: float = 0.1
    end: float = 0.99

    def __post_init__(self) -> None:
        if self.singularity < 0:
            raise ValueError(f"singularity: expected 0 or more, got {self.singularity}")
        for name in ("start", "end"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a weight between 0 and 1, got {getattr(self, name)}")


class LayerWeights(nn.Module):
    """A learned weight in (0, 1] a block, of hidden tokens in its softmax."""

    def __init__(self, depth: int, settings: MaskTokenSettings) -> None:
        super().__init__()
        self.settings = settings
        self.logits = nn.Parameter(torch.linspace(settings.start, settings.end, depth).logit())

    def forward(self, hidden: Bool[Tensor, "B S"]) -> Muted:
        """A weight of 1 changes nothing, one near 0 takes hidden tokens out of sight, out of their own as well."""
        return Muted(hidden, logsigmoid(self.logits.float()))


def likeness(
    entered: Float[Tensor, "B N D"], hidden: Bool[Tensor, "B N"], content: Content, scored: Scored
) -> Float[Tensor, "B Q"]:
    """Of every scored token: the mean of max(0, cosine) to the visible tokens of its document; 0 where there are none.

    `entered` is what the trunk's first block gets.
    """
    unit = normalize(entered.float(), dim=2)
    visible = content.valid & content.observed & ~hidden
    same = gather(content.segment, scored.places).unsqueeze(2) == content.segment.unsqueeze(1)
    pairs = same & visible.unsqueeze(1)  # B Q N
    cosine = torch.einsum("bqd,bnd->bqn", gather(unit, scored.places), unit)
    return torch.where(pairs, cosine.clamp(min=0), 0.0).sum(2) / pairs.sum(2).clamp(min=1)
