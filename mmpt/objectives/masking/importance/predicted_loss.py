"""What a teacher expects to be hard is hidden for certain (hard patch mining, Wang et al. 2023, section 3.3)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.masking.importance import Importance
from mmpt.randomness import uniform_rows
from mmpt.tokens import StreamContext


class PredictedLossImportance(Importance):
    """Of what is to be hidden a share, from easy to hard over the run, is the hardest; the rest is drawn uniformly.

    Only tokens of one row and stream are compared, those that may be hidden among themselves. Units larger than a token
    are ranked by their mean, and the hardest of them taken as long as whole ones fit in the share.

    Args:
        start: the share at progress 0; the paper's alpha 0.
        end: the share at progress 1; the paper's alpha T.
    """

    guided = True

    def __init__(self, modality: Modality, *, start: float = 0.0, end: float = 0.5) -> None:
        for name, value in (("start", start), ("end", end)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name}: expected a share from 0 to 1, got {value}")
        self.start, self.end = start, end

    def weight(self, context: StreamContext) -> Float[Tensor, "B N"]:
        """Infinite for the hardest, 1 for all others."""
        if context.predicted_loss is None or context.units is None or context.budget is None:
            raise ValueError("importance 'predicted_loss' needs a predicted loss, units and a budget in its context")
        count = self.count(context.budget, context.progress)
        hard = hardest(context.units, context.maskable, context.predicted_loss, count, context.draw)
        weight = torch.ones_like(hard, dtype=torch.float64)
        return weight.masked_fill(hard, math.inf)

    def count(self, budget: Int[Tensor, " B"], progress: float) -> Int[Tensor, " B"]:
        """Of the tokens to hide those that the teacher chooses: int(n_mask alpha)."""
        alpha = self.start + (self.end - self.start) * min(max(progress, 0.0), 1.0)
        return (budget.double() * alpha).long()


def hardest(
    units: Int[Tensor, "B N"],
    maskable: Bool[Tensor, "B N"],
    predicted: Float[Tensor, "B N"],
    count: Int[Tensor, " B"],
    draw: Int[Tensor, " B"],
) -> Bool[Tensor, "B N"]:
    """Tokens of the units with the highest mean prediction, whole units up to `count` tokens; ties at random."""
    size = torch.zeros_like(units).scatter_add(1, units, maskable.long())
    known = predicted.double().masked_fill(~maskable, 0.0)
    mean = torch.zeros_like(known).scatter_add(1, units, known) / size.clamp(min=1)
    lots = uniform_rows(draw, units.shape[1], "equally hard").argsort(dim=1)
    mean = mean.masked_fill(size == 0, -torch.inf).gather(1, lots)
    order = lots.gather(1, mean.argsort(dim=1, descending=True, stable=True))
    ordered = size.gather(1, order)
    chosen = (ordered.cumsum(1) <= count.unsqueeze(1)) & (ordered > 0)
    return torch.zeros_like(chosen).scatter(1, order, chosen).gather(1, units) & maskable
