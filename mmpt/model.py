"""The method on one page: embed -> hide -> show -> mix -> predict -> score."""

from collections.abc import Collection, Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmpt.encoders import Encoder, Modality
from mmpt.objectives import Hidden, Objective, Step
from mmpt.tokens import Batch, Muted, Shown, Tokens, concatenate, replace
from mmpt.trunk import Between, Trunk, TrunkOutput


class Backbone(nn.Module):
    """What pretraining is for: one encoder a modality and the trunk they share.

    Args:
        modalities: by stream name; their order numbers the streams.
        trunk: of the width that all encoders embed to.
    """

    def __init__(self, modalities: Mapping[str, Modality], trunk: Trunk) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: modality.encoder(trunk.width) for name, modality in modalities.items()})
        self.trunk = trunk
        self.numbers = {name: number for number, name in enumerate(modalities)}

    def encoder(self, name: str) -> Encoder:
        """Of one stream."""
        return cast("Encoder", self.encoders[name])

    def embed(self, batch: Batch) -> dict[str, Tokens]:
        """Every stream that the batch has, as tokens."""
        embedded = {name: self.encoder(name)(batch.streams[name]) for name in self.numbers if name in batch.streams}
        return {
            name: tokens._replace(stream=tokens.stream.new_full(tokens.stream.shape, self.numbers[name]))
            for name, tokens in embedded.items()
        }

    def mix(
        self,
        shown: Mapping[str, Shown],
        sizes: Mapping[str, int],
        draw: Int[Tensor, " B"],
        layers: Collection[int] = (),
        between: Between | None = None,
        muted: Muted | None = None,
    ) -> tuple[Tokens, TrunkOutput]:
        """Streams side by side through the trunk, once; returns the sequence with latents as its content.

        `sizes` has the N that each stream's tokens were shown of; of the blocks in `layers` inner states come along,
        and `between` changes what goes from one block to the next. `muted` tokens are looked at less.
        """
        settled = {name: self.encoder(name).settle(part, sizes[name]) for name, part in shown.items()}
        tokens = concatenate([part.tokens for part in settled.values()])
        columns = tuple((self.numbers[name], part.places.shape[1]) for name, part in settled.items())
        tokens = tokens._replace(muted=muted)
        output = self.trunk(tokens, draw, columns, layers, between)
        return tokens._replace(x=output.latents), output

    def forward(self, batch: Batch) -> dict[str, Tokens]:
        """Latents of every stream with nothing hidden: what downstream work uses."""
        embedded, output = self._whole(batch)
        split = zip(embedded.items(), output.latents.split(_sizes(embedded), dim=1), strict=True)
        return {name: tokens._replace(x=x) for (name, tokens), x in split}

    def changes(self, batch: Batch, layers: Sequence[int]) -> dict[str, Float[Tensor, "L B N D"]]:
        """What the feed-forwards of these blocks, counted from 1, add to every token with nothing hidden."""
        embedded, output = self._whole(batch, layers)
        changes = torch.stack([output.inner[layer].change for layer in layers])
        return dict(zip(embedded, changes.split(_sizes(embedded), dim=2), strict=True))

    def _whole(self, batch: Batch, layers: Collection[int] = ()) -> tuple[dict[str, Tokens], TrunkOutput]:
        embedded = self.embed(batch)
        shown = {name: replace(tokens, tokens.x) for name, tokens in embedded.items()}
        sizes = dict(zip(embedded, _sizes(embedded), strict=True))
        return embedded, self.mix(shown, sizes, batch.draw, layers)[1]


def _sizes(embedded: Mapping[str, Tokens]) -> list[int]:
    return [tokens.x.shape[1] for tokens in embedded.values()]


class MaskedModel(nn.Module):
    """Backbone and objective: what DeepSpeed wraps."""

    def __init__(self, backbone: Backbone, objective: Objective) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective

    def hide(self, batch: Batch, progress: float) -> dict[str, Hidden]:
        """What the step hides; comes first, so that ranks can add up the denominators of their losses."""
        return self.objective.hide(batch, progress)

    def forward(self, batch: Batch, hidden: dict[str, Hidden], progress: float) -> Step:
        """Losses of one micro-batch, as sums."""
        step = self.objective(self.backbone, batch, hidden, progress)
        return step._replace(balance=step.balance + 0.0 * self.objective.touch(self.backbone, batch))

    def after_update(self, progress: float) -> None:
        """Teachers follow; called when the optimiser has stepped, and only then."""
        self.objective.after_update(self.backbone, progress)
