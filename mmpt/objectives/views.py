"""Two views of one row: a span hidden in the second, and features dropped in both (Mirror-BERT, Liu et al. 2021)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmpt.config import Component, component
from mmpt.model import Backbone
from mmpt.objectives.context import context_of
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.randomness import fold, uniform
from mmpt.tokens import Batch, Shown, Tokens, replace
from mmpt.trunk import Between


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """What the second view of a stream lacks.

    Args:
        length: neighbouring tokens that are hidden together, at one random place.
        shortest: rows of fewer tokens that could be hidden are left complete.
        masking: instead of one span, whatever masking can say: blocks of a picture, columns of a table.
        corruption: what is shown instead.
    """

    length: int = 2
    shortest: int = 8
    masking: MaskingSettings | None = None
    corruption: Component[Corruption] = component(Corruption, "replace")

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length: expected at least 1, got {self.length}")
        if self.shortest <= self.length:
            raise ValueError(
                f"shortest: expected more than length={self.length}, so that something is left, got {self.shortest}"
            )


def one_span(
    maskable: Bool[Tensor, "B N"], draw: Int[Tensor, " B"], *, length: int, shortest: int
) -> Bool[Tensor, "B N"]:
    """`length` neighbours among the tokens that may be hidden, none in a row that has fewer than `shortest`."""
    number = maskable.sum(1)
    starts = (uniform(fold(draw, "one span")) * (number - length + 1).clamp(min=1)).long().unsqueeze(1)
    place = maskable.cumsum(1) - 1
    inside = (place >= starts) & (place < starts + length)
    return maskable & inside & (number >= shortest).unsqueeze(1)


def second_view(
    backbone: Backbone,
    tokens: Mapping[str, Tokens],
    batch: Batch,
    settings: Mapping[str, ViewSettings],
    maskings: Mapping[str, Masking],
    corruptions: Mapping[str, Corruption],
    progress: float,
) -> dict[str, Shown]:
    """Every stream with what its settings hide."""
    shown = {}
    for name, embedded in tokens.items():
        own = settings[name]
        context = context_of(batch, name, progress)
        substitute = partial(backbone.encoder(name).substitute, batch.streams[name])
        if own.masking is None:
            hidden = one_span(context.maskable, context.draw, length=own.length, shortest=own.shortest)
        else:
            hidden = maskings[name](context)
        shown[name] = corruptions[name](embedded, hidden, context._replace(substitute=substitute))
    return shown


def complete(tokens: Mapping[str, Tokens]) -> dict[str, Shown]:
    """Every stream as it is."""
    return {name: replace(own, own.x) for name, own in tokens.items()}


class Noise:
    """Features of every token set to 0 with probability `share`, the rest scaled up: dropout by the row's own key.

    A token's numbers depend on its row, stream, place and the layer: never on padding, device or other rows.

    Args:
        shown: what goes through the trunk. draw: keys of the rows in this view.
    """

    def __init__(self, share: float, shown: Mapping[str, Shown], draw: Int[Tensor, " B"]) -> None:
        self.share = share
        keys = [fold(fold(draw, name).unsqueeze(1), part.places) for name, part in shown.items()]
        self.keys = torch.cat(keys, dim=1)  # B S

    def __call__(self, layer: int, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """What goes on from behind a block, counted from 1; 0 is before the first."""
        return x * kept_features(self.keys, layer, x.shape[2], self.share).to(x.dtype) / (1 - self.share)

    def on_entry(self, shown: Mapping[str, Shown]) -> dict[str, Shown]:
        """What is shown, with its content thinned out before the first block."""
        sizes = [part.places.shape[1] for part in shown.values()]
        thinned, start = {}, 0
        for (name, part), size in zip(shown.items(), sizes, strict=True):
            x = part.tokens.x
            kept = kept_features(self.keys[:, start : start + size], 0, x.shape[2], self.share).to(x.dtype)
            thinned[name] = part._replace(tokens=part.tokens._replace(x=x * kept / (1 - self.share)))
            start += size
        return thinned


@torch.compiler.disable()  # 64-bit wrapping constants overflow inductor's index arithmetic
def kept_features(keys: Int[Tensor, "B S"], layer: int, width: int, share: float) -> Bool[Tensor, "B S D"]:
    """Which features stay."""
    counter = torch.arange(width, device=keys.device)
    return uniform(fold(fold(keys, layer).unsqueeze(2), counter)) >= share


def noisy(share: float, shown: dict[str, Shown], draw: Int[Tensor, " B"]) -> tuple[dict[str, Shown], Between | None]:
    """What is shown, and what happens between blocks; both as they are where `share` is 0."""
    if not share:
        return shown, None
    noise = Noise(share, shown, draw)
    return noise.on_entry(shown), noise
