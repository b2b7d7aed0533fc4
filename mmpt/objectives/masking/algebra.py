"""Masking = ratio x unit x importance: one weighted draw of units without replacement."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmpt.config import Component, component
from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.masking.importance import Importance
from mmpt.objectives.masking.ratio import Ratio
from mmpt.objectives.masking.unit import Unit
from mmpt.randomness import fold as fold_key
from mmpt.randomness import uniform, uniform_rows
from mmpt.tokens import Content, StreamContext


@dataclass(frozen=True, kw_only=True)
class MaskingSettings:
    """Settings of a stream's masking.

    Args:
        ratio: share of the maskable tokens that is hidden; a number, or a part.
        unit: what is hidden together.
        importance: where hiding is preferred.
        rounding: `up` hides what MAE hides, n - floor(n (1 - ratio)); `dither` rounds up or down at random so that the
            expected number is exactly ratio x n.
    """

    ratio: float | Component[Ratio]
    unit: Component[Unit] = component(Unit, "token")
    importance: Component[Importance] = component(Importance, "uniform")
    rounding: Literal["up", "dither"] = "up"

    def __post_init__(self) -> None:
        if isinstance(self.ratio, float | int) and not 0 < self.ratio < 1:
            raise ValueError(f"ratio: expected a share between 0 and 1, got {self.ratio}")


class Drawn(NamedTuple):
    """One draw of a stream's masking."""

    hidden: Bool[Tensor, "B N"]
    certain: Bool[Tensor, "B N"] | None  # of infinite weight: hidden whatever the draw; None where all are alike


class Masking(torch.nn.Module):
    """Draws which tokens of a stream are hidden: valid and observed ones only, at least one a row that has any."""

    def __init__(self, modality: Modality, settings: MaskingSettings) -> None:
        super().__init__()
        ratio = settings.ratio
        chosen = component(Ratio, "constant", value=ratio) if isinstance(ratio, float | int) else ratio
        self.ratio = chosen.build()
        self.unit = settings.unit.build(modality)
        self.importance = settings.importance.build(modality)
        self.rounding = settings.rounding
        if self.ratio.shared and self.unit.overlapping:
            raise ConfigError(
                f"unit '{settings.unit.name}' needs a ratio of the stream's own: spans that overlap can't keep to a "
                f"shared budget of tokens, which ratio '{chosen.name}' draws; use unit 'span'"
            )

    def forward(self, context: StreamContext) -> Bool[Tensor, "B N"]:
        """The hidden tokens."""
        return self.drawn(context).hidden

    @torch.no_grad()
    def drawn(self, context: StreamContext) -> Drawn:
        """The hidden tokens, and which of them the importance left no choice about."""
        share = self.ratio.share(context)
        places, count = context.maskable, self._budget(share, context.maskable.sum(1), context.draw)
        spans = self.unit.spans(context, share)
        if spans is not None:
            long_enough = spans.fits.any(1)
            places = torch.where(long_enough.unsqueeze(1), spans.fits, places)
            count = torch.where(long_enough, spans.number, count)
            context = context._replace(content=context.content._replace(observed=places))
        units = self.unit.units(context)
        weight = self.importance.weight(context._replace(units=units, budget=count))
        hidden = choose_units(units, places, count, weight, context.draw)
        certain = None if weight is None else weight.isinf() & places
        if spans is not None:
            hidden = hidden | _covered(hidden & spans.fits, spans.length)
        return Drawn(hidden, certain)

    def count(self, content: Content, progress: float) -> int | None:
        """Hidden tokens of every row, where settings and rows fix it: no look at the device is needed."""
        share = self.ratio.constant(progress)
        known = content.observed_count if self.unit.tokens is not None and self.rounding == "up" else None
        if share is None or known is None:
            return None
        return int(self._whole(torch.tensor([share], dtype=torch.float64), torch.tensor([known])))

    def _budget(
        self, share: Float[Tensor, " B"], maskable: Int[Tensor, " B"], draw: Int[Tensor, " B"]
    ) -> Int[Tensor, " B"]:
        if self.ratio.shared:
            return _rounded_up(share, maskable)
        if self.rounding == "up":
            return self._whole(share, maskable)
        return _within((share * maskable + uniform(fold_key(draw, "dither"))).floor().long(), maskable)

    def _whole(self, share: Float[Tensor, " B"], maskable: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Tokens of as many units as are hidden, where all have as many tokens; else of the share itself."""
        tokens = self.unit.tokens or 1
        units = maskable // tokens
        return tokens * _within(_rounded_up(share, units), units)


def _covered(first: Bool[Tensor, "B N"], length: int) -> Bool[Tensor, "B N"]:
    """The tokens of spans that begin at `first`."""
    begun = first.long().cumsum(1)
    ended = torch.zeros_like(begun)
    ended[:, length:] = begun[:, :-length]
    return begun > ended


def _rounded_up(share: Float[Tensor, " B"], maskable: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    # The small number keeps 10 (1 - 0.9) = 0.9999... from losing a token.
    return maskable - (maskable * (1 - share) + 1e-9).floor().long()


def _within(budget: Int[Tensor, " B"], maskable: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """At least one hidden and, where there are two, at least one left; none in a row that has none."""
    return budget.clamp(min=1).minimum((maskable - 1).clamp(min=1)) * (maskable > 0)


def choose_units(
    units: Int[Tensor, "B N"],
    maskable: Bool[Tensor, "B N"],
    budget: Int[Tensor, " B"],
    weight: Float[Tensor, "B N"] | None,
    draw: Int[Tensor, " B"],
) -> Bool[Tensor, "B N"]:
    """Units drawn without replacement, in proportion to their weight, until the budget of tokens is met.

    Gumbel top-k (Kool et al. 2019): the largest of log weight + Gumbel noise. A unit larger than what is left is taken
    with the share of it that still fits, so that the number of hidden tokens is right on average. The first unit is
    always taken, and the last never, unless it is the only one or the budget is the whole row.
    """
    size = torch.zeros_like(units).scatter_add(1, units, maskable.long())
    noise = -(-uniform_rows(draw, units.shape[1], "mask").log()).log()
    if weight is not None:
        total = torch.zeros_like(weight).scatter_add(1, units, weight.masked_fill(~maskable, 0.0))
        noise = noise + (total / size.clamp(min=1)).clamp(min=1e-300).log()
    order = noise.masked_fill(size == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
    ordered = size.gather(1, order)
    before = ordered.cumsum(1) - ordered
    there = maskable.sum(1, keepdim=True)
    not_last = (before + ordered < there) | (budget.unsqueeze(1) >= there)
    lot = uniform(fold_key(draw, "unit that does not fit")).unsqueeze(1)
    chosen = (lot * ordered < budget.unsqueeze(1) - before) & (ordered > 0) & not_last
    chosen[:, 0] = budget > 0
    hidden_units = torch.zeros_like(chosen).scatter(1, order, chosen)
    return hidden_units.gather(1, units) & maskable
