"""Two views of a row, one masked and one complete, that exchange visible tokens (MS-HuBERT, Yadav et al. 2024)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmpt.objectives import Hidden
from mmpt.objectives.predictors import Latents
from mmpt.randomness import fold, uniform_rows
from mmpt.tokens import Batch, Shown, Tokens, replace


@dataclass(frozen=True, kw_only=True)
class SwapSettings:
    """The complete view goes through the trunk beside the masked one, so that the network meets full context, too.

    Args:
        layers: blocks of the trunk behind which visible tokens change places with those of the other view. 0 is behind
            the masking, before any positions are added, where visible tokens of both views are the same: nothing
            changes there. From 1 on, a visible token of the complete view has looked at what is hidden.
        prob: that a visible token changes places, drawn for each token and block.
        clean_weight: of the loss of hidden tokens in the complete view, beside that in the masked one; both are divided
            by the same number.
    """

    layers: tuple[int, ...] = (0,)
    prob: float = 0.5
    clean_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1 or self.clean_weight < 0:
            raise ValueError(
                f"prob, clean_weight: expected a share and 0 or more, got {self.prob} and {self.clean_weight}"
            )


class Exchange:
    """What happens between the blocks to rows of which the first half is masked and the second complete.

    Args:
        layers: behind which blocks.
        prob: of each visible token.
        visible: tokens that may change places; the same for both views.
        draw: keys of the rows' random numbers.
    """

    def __init__(
        self, layers: tuple[int, ...], prob: float, visible: Bool[Tensor, "B S"], draw: Int[Tensor, " B"]
    ) -> None:
        self.layers, self.prob, self.visible, self.draw = layers, prob, visible, draw

    def __call__(self, layer: int, x: Float[Tensor, "views S D"]) -> Float[Tensor, "views S D"]:
        """Behind block `layer`, counted from 1."""
        return exchanged(x, self.chosen(layer)) if layer in self.layers else x

    def chosen(self, layer: int) -> Bool[Tensor, "B S"]:
        """The tokens that change places behind a block."""
        return self.visible & (uniform_rows(self.draw, self.visible.shape[1], f"swap {layer}") < self.prob)


def exchanged(x: Float[Tensor, "views S D"], chosen: Bool[Tensor, "B S"]) -> Float[Tensor, "views S D"]:
    """The chosen tokens of the first half of the rows in the place of those of the second, and the other way round."""
    masked, clean = x.chunk(2)
    there = chosen.unsqueeze(2)
    return torch.cat([torch.where(there, clean, masked), torch.where(there, masked, clean)])


def exchange_of(settings: SwapSettings, batch: Batch, hidden: Mapping[str, Hidden], streams: Iterable[str]) -> Exchange:
    """Of measurements that are not hidden, in streams that stand side by side in this order."""
    contents = {name: batch.streams[name] for name in streams}
    visible = [own.valid & own.observed & ~hidden[name].hidden for name, own in contents.items()]
    return Exchange(settings.layers, settings.prob, torch.cat(visible, dim=1), batch.draw)


def both_views(shown: Shown, embedded: Tokens) -> Shown:
    """Twice as many rows: masked, then complete."""
    clean = replace(embedded, embedded.x)
    tensors = (torch.cat(pair) for pair in zip(shown.tokens[:6], clean.tokens[:6], strict=True))
    tokens = shown.tokens
    places = torch.cat([shown.places, clean.places])
    return Shown(Tokens(*tensors, full=tokens.full, rotary=tokens.rotary), places)


def draws_of_both(draw: Int[Tensor, " B"]) -> Int[Tensor, " views"]:
    """The masked view draws what it would draw alone."""
    return torch.cat([draw, fold(draw, "clean view")])


def views_of(latents: Latents) -> tuple[Latents, Latents]:
    """The masked and the complete one, each by itself."""
    half = len(latents.own) // 2
    return _rows(latents, slice(half)), _rows(latents, slice(half, None))


def _rows(latents: Latents, rows: slice) -> Latents:
    shown = Shown(_rows_of(latents.shown.tokens, rows), latents.shown.places[rows])
    inner = None if latents.inner is None else {layer: x[rows] for layer, x in latents.inner.items()}
    return Latents(latents.own[rows], shown, _rows_of(latents.every, rows), latents.draw[rows], inner)


def _rows_of(tokens: Tokens, rows: slice) -> Tokens:
    return Tokens(*(tensor[rows] for tensor in tokens[:6]), full=tokens.full, rotary=tokens.rotary)
