"""One budget of shown tokens a row, shared over its streams by a Dirichlet draw (4M, Mizrahi et al. 2023)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmpt.errors import ConfigError
from mmpt.objectives.masking.ratio import Ratio
from mmpt.randomness import fold, gamma
from mmpt.tokens import Siblings, StreamContext


class DirichletRatio(Ratio):
    """A row shows `shown` of its maskable tokens; which streams they are of is drawn anew for every row.

    A stream gets no more than it has; what it can't take goes to the others. So one stream may be shown whole and
    another not at all. All streams of the recipe have to use this ratio with the same settings.

    Args:
        shown: share of a row's maskable tokens, over all streams, that stays in sight.
        alpha: concentration: at 1 all divisions are equally likely, below 1 one stream tends to get nearly all.
    """

    shared = True

    def __init__(self, *, shown: float = 0.3, alpha: float = 1.0) -> None:
        if not 0 < shown < 1:
            raise ConfigError(f"shown: expected a share between 0 and 1, got {shown}")
        if alpha <= 0:
            raise ConfigError(f"alpha: expected a positive number, got {alpha}")
        self.shown, self.alpha = shown, alpha

    def share(self, context: StreamContext) -> Float[Tensor, " B"]:
        """What is left to hide of this stream once its part of the budget is shown."""
        siblings = context.siblings or Siblings("", context.draw, {"": context.maskable.sum(1)})
        names = list(siblings.maskable)
        counts = torch.stack([siblings.maskable[name] for name in names], dim=1)  # B streams
        draws = [gamma(fold(siblings.row, f"budget {name}"), self.alpha, "budget") for name in names]
        budgets = share_out(self._total(counts), torch.stack(draws, dim=1) * (counts > 0), counts)
        own = names.index(siblings.name)
        return 1 - budgets[:, own] / counts[:, own].clamp(min=1).double()

    def constant(self, progress: float) -> None:
        """Rows differ."""

    def _total(self, counts: Int[Tensor, "B streams"]) -> Int[Tensor, " B"]:
        """Tokens that a row shows: at least one, and at least one less than there are."""
        there = counts.sum(1)
        return (there * self.shown + 0.5).long().clamp(min=1).minimum((there - 1).clamp(min=0))


def share_out(
    total: Int[Tensor, " B"], weights: Float[Tensor, "B streams"], counts: Int[Tensor, "B streams"]
) -> Int[Tensor, "B streams"]:
    """Whole numbers in proportion to the weights, none above its count, that sum to `total` or to all there is.

    What rounding down and full streams leave over goes to the streams in the order of their weights.
    """
    shares = weights / weights.sum(1, keepdim=True).clamp(min=1e-300)
    budgets = (total.unsqueeze(1) * shares).floor().long().minimum(counts)
    order = weights.argsort(dim=1, descending=True, stable=True)
    room = (counts - budgets).gather(1, order)
    left = (total - budgets.sum(1)).unsqueeze(1)
    taken = (left - (room.cumsum(1) - room)).clamp(min=0).minimum(room)
    return budgets.scatter_add(1, order, taken)
