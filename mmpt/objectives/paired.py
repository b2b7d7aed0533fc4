"""The losses on pairs of streams beside masked prediction."""

from collections.abc import Collection, Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.config import Component
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.objectives import Hidden, Loss
from mmpt.objectives.latents import Seen
from mmpt.objectives.loss_prediction import Figures
from mmpt.objectives.pairs import PairLoss, matched_rows, mean_of, shown_in_both
from mmpt.tokens import Batch


class Paired(nn.ModuleDict):
    """Pair losses by name.

    Args:
        settings: as in the recipe. streams: the recipe's. width: D.
    """

    def __init__(self, settings: Mapping[str, Component[PairLoss]], streams: Collection[str], width: int) -> None:
        super().__init__()
        for name, part in settings.items():
            where = f"objective.pairs.{name}"
            if name in streams:
                raise ConfigError(f"{where}: a stream has this name, and losses are told apart by theirs; use another")
            loss = part.build(width)
            for stream in loss.streams:
                if stream not in streams:
                    raise ConfigError(f"{where}.streams: no stream '{stream}'; the recipe has {', '.join(streams)}")
            self[name] = loss

    def losses(self) -> dict[str, PairLoss]:
        """By name."""
        return {name: cast("PairLoss", loss) for name, loss in self.items()}

    def _of(self, batch: Batch) -> dict[str, PairLoss]:
        return {n: loss for n, loss in self.losses().items() if all(s in batch.streams for s in loss.streams)}

    def hide(self, batch: Batch, hidden: dict[str, Hidden]) -> dict[str, Hidden]:
        """Nothing more; the rows that count, and their part of the denominator."""
        result = {}
        for name, loss in self._of(batch).items():
            there = shown_in_both(loss, batch, hidden)
            column = there.unsqueeze(1)
            result[name] = Hidden(torch.zeros_like(column), column, None, loss.denominator(there))
        return result

    def score(
        self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden], seen: Seen
    ) -> tuple[dict[str, Loss], Figures]:
        """The losses of a micro-batch, from the latents that masked prediction made."""
        pairs = self._of(batch)
        apart, joint = (
            {s for loss in pairs.values() if loss.alone is own for s in loss.streams} for own in (True, False)
        )
        alone = {name: _alone(backbone, batch, name, seen) for name in batch.streams if name in apart}
        mixed = {name: own for name, own in seen.latents.items() if name in joint}
        together = {name: mean_of(own.own, own.shown.tokens.valid) for name, own in mixed.items()}
        losses, metrics, matched = {}, {}, matched_rows(batch)
        for name, loss in pairs.items():
            one, other = ((alone if loss.alone else together)[stream] for stream in loss.streams)
            each, figures = loss(one, other, hidden[name].scored.squeeze(1), matched)
            losses[name] = Loss(each.sum(), each.detach())
            metrics |= {f"{name}/{figure}": value for figure, value in figures.items()}
        return losses, metrics

    def touch(self, batch: Batch, width: int) -> Float[Tensor, ""]:
        """A number that depends on all weights of the losses whose streams the batch lacks."""
        total = batch.draw.new_zeros((), dtype=torch.float32)
        nothing, there = total.new_zeros(1, width), total.new_ones(1, dtype=torch.bool)
        for name, loss in self.losses().items():
            if name not in self._of(batch):
                total = total + loss(nothing, nothing, there, there)[0].sum()
        return total


def _alone(backbone: Backbone, batch: Batch, stream: str, seen: Seen) -> Float[Tensor, "B D"]:
    """The mean latent of what is shown of one stream, through the trunk by itself."""
    shown = seen.latents[stream].shown
    latents, _ = backbone.mix({stream: shown}, {stream: batch.streams[stream].valid.shape[1]}, batch.draw)
    return mean_of(latents.x, latents.valid)
