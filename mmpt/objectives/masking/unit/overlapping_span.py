"""Spans that begin anywhere and may overlap (wav2vec 2.0, Baevski et al. 2020, section 3.1; also HuBERT's)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Spans, Unit
from mmpt.objectives.masking.unit.runs import numbered
from mmpt.randomness import fold as fold_key
from mmpt.randomness import uniform
from mmpt.tokens import StreamContext


class OverlappingSpanUnit(Unit):
    """floor(ratio x maskable tokens / length + u) spans a row, u uniform in [0, 1), begin at different tokens.

    The ratio is the share that would be hidden if no spans overlapped: of a long row 0.8 hides about 0.57 in spans of
    ten. An importance says where spans prefer to begin, token by token (Ask2Mask's starts at the surest frames). As in
    the source, a span begins only where another maskable token of the same document follows it. A row too short for
    any span hides single tokens, the ratio's share of them.

    Args:
        length: tokens of a span; the papers have ten of 20 ms.
        fewest: spans of a row, where so many fit.
    """

    overlapping = True

    def __init__(self, modality: Modality, *, length: int, fewest: int = 2) -> None:
        if length < 1 or fewest < 1:
            raise ConfigError(f"length, fewest: expected at least 1, got {length} and {fewest}")
        self.length, self.fewest = length, fewest

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """What is drawn is where spans begin: every token for itself."""
        valid = context.content.valid
        return torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)

    def spans(self, context: StreamContext, share: Float[Tensor, " B"]) -> Spans:
        """Where spans fit, and how many are drawn."""
        fits = self._fits(context)
        lot = uniform(fold_key(context.draw, "spans"))
        count = (share * context.maskable.sum(1) / self.length + lot).floor().long()
        return Spans(fits, count.clamp(min=self.fewest).minimum(fits.sum(1)), self.length)

    def _fits(self, context: StreamContext) -> Bool[Tensor, "B N"]:
        maskable = context.maskable
        fits = torch.zeros_like(maskable)
        if maskable.shape[1] > self.length:
            run = numbered(fits, context.content)
            fits[:, : -self.length] = run[:, self.length :] == run[:, : -self.length]
        return fits & maskable
