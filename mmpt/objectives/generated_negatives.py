"""Captions that are wrong by a few words of the model's own (ViLTA, Wang et al. 2023, section 3.3)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmpt.config import Component, component
from mmpt.encoders import Modality
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.objectives import Hidden, Loss
from mmpt.objectives.context import context_of
from mmpt.objectives.latents import latents_of
from mmpt.objectives.loss_prediction import Figures
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.pairs import PairLoss, matched_rows, mean_of
from mmpt.objectives.predictors import Latents
from mmpt.randomness import fold, uniform
from mmpt.tokens import Batch, Content, flatten, score

if TYPE_CHECKING:
    from mmpt.objectives.stream_objective import StreamObjective

SPECIAL = ("bos", "eos", "pad", "mask", "unk")


@dataclass(frozen=True, kw_only=True)
class GeneratedSettings:
    """Rows whose text the model itself has made wrong, beside those that a source's `negatives` have.

    Args:
        stream: of text, one of the two of the pair.
        ratio: share of the shown tokens that are filled anew, at least one a row.
        unit: what is filled together.
        choice: `sample` from what the model expects, or its `best` guess; the true token is out of both.
    """

    stream: str
    ratio: float = 0.15
    unit: Component[Unit] = component(Unit, "token")
    choice: Literal["sample", "best"] = "sample"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio: expected a share between 0 and 1, got {self.ratio}")


class Generator(nn.Module):
    """Hides shown words and lets the encoder as it is fill them, by all but what stood there.

    Args:
        modality: of the text. settings: see there.
    """

    never: Tensor

    def __init__(self, modality: Modality, settings: GeneratedSettings) -> None:
        super().__init__()
        if not isinstance(modality, Text):
            raise ConfigError(f"generated.stream: words are filled in text alone, and '{settings.stream}' is none")
        self.stream, self.samples = settings.stream, settings.choice == "sample"
        self.masking = Masking(modality, MaskingSettings(ratio=settings.ratio, unit=settings.unit))
        never = torch.zeros(modality.vocabulary, dtype=torch.bool)
        never[[modality.special(name) for name in SPECIAL]] = True
        self.register_buffer("never", never, persistent=False)

    @torch.no_grad()
    def slots(self, batch: Batch, hidden: Hidden, progress: float) -> Bool[Tensor, "B N"]:
        """The tokens to fill: shown ones, so that wrong captions are no more hidden than true ones."""
        context = context_of(batch, self.stream, progress)
        content = context.content
        shown = content._replace(observed=content.observed & ~hidden.hidden, observed_count=None)
        return self.masking(context._replace(content=shown, draw=fold(context.draw, "generated")))

    @torch.no_grad()
    def filled(
        self,
        backbone: Backbone,
        part: "StreamObjective",
        batch: Batch,
        hidden: Hidden,
        slots: Bool[Tensor, "B N"],
        progress: float,
    ) -> Content:
        """The same text, with other tokens in the slots; they are chosen without a look at other streams."""
        content, scored = batch.streams[self.stream], score(slots, None)
        both = Hidden(hidden.hidden | slots, slots, None, slots.sum().float())
        alone = batch._replace(streams={self.stream: content})
        seen = latents_of(backbone, {self.stream: part.corruption}, alone, {self.stream: both}, progress)
        logits = part.predictor(seen.latents[self.stream], content, scored).float()
        lots = None
        if self.samples:
            rows = torch.arange(len(slots), device=slots.device).unsqueeze(1).expand(scored.places.shape)
            lots = _gumbel(batch.draw[flatten(rows, scored)], flatten(scored.places, scored), logits.shape[1])
        values = content.values[slots]
        return content._replace(values=content.values.masked_scatter(slots, self._chosen(logits, values, lots)))

    def _chosen(
        self, logits: Float[Tensor, "M V"], true: Int[Tensor, " M"], lots: Float[Tensor, "M V"] | None
    ) -> Int[Tensor, " M"]:
        """The best, or a draw; neither what is true nor what is no word."""
        allowed = logits.masked_fill(self.never, -torch.inf).scatter(1, true.unsqueeze(1), -torch.inf)
        return (allowed if lots is None else allowed + lots).argmax(dim=1)


def _gumbel(draw: Int[Tensor, " M"], places: Int[Tensor, " M"], count: int) -> Float[Tensor, "M V"]:
    keys = fold(fold(draw, "filled"), places)
    lots = uniform(fold(keys.unsqueeze(1), torch.arange(count, device=draw.device)))
    return -(-lots.log()).log().float()


class Generators(nn.ModuleDict):
    """By the name of the pair loss that asks for one; the losses are handed over, being another's."""

    def __init__(self, pairs: Mapping[str, PairLoss], modalities: Mapping[str, Modality]) -> None:
        asking = {name: pair.generated for name, pair in pairs.items() if pair.generated is not None}
        super().__init__({name: Generator(modalities[own.stream], own) for name, own in asking.items()})

    def _of(self, pairs: Mapping[str, PairLoss], batch: Batch) -> dict[str, Generator]:
        there = {name for name, pair in pairs.items() if all(stream in batch.streams for stream in pair.streams)}
        return {name: cast("Generator", own) for name, own in self.items() if name in there}

    def hide(
        self, pairs: Mapping[str, PairLoss], batch: Batch, hidden: Mapping[str, Hidden], progress: float
    ) -> dict[str, Hidden]:
        """What the losses count, now with the slots to fill as `hidden` and their rows in the denominator."""
        result = {}
        for name, generator in self._of(pairs, batch).items():
            slots = generator.slots(batch, hidden[generator.stream], progress)
            own = hidden[name]._replace(hidden=slots)
            more = pairs[name].denominator(filled_rows(own, batch))
            result[name] = own._replace(denominator=own.denominator + more)
        return result

    def wrong(
        self,
        pairs: Mapping[str, PairLoss],
        backbone: Backbone,
        parts: Mapping[str, "StreamObjective"],
        batch: Batch,
        hidden: Mapping[str, Hidden],
        progress: float,
    ) -> Iterator[tuple[str, Batch]]:
        """The batch with words of the model's own, for every loss that asks."""
        for name, generator in self._of(pairs, batch).items():
            stream, slots = generator.stream, hidden[name].hidden
            content = generator.filled(backbone, parts[stream], batch, hidden[stream], slots, progress)
            yield name, batch._replace(streams={**batch.streams, stream: content})


def false_pairs(
    name: str, pair: PairLoss, latents: Mapping[str, Latents], there: Bool[Tensor, " B"]
) -> tuple[Loss, Figures]:
    """The loss of rows none of which is a true pair."""
    one, other = (mean_of(latents[own].own, latents[own].shown.tokens.valid) for own in pair.streams)
    each, figures = pair(one, other, there, torch.zeros_like(there))
    return Loss(each.sum(), each.detach()), {f"{name}/generated_{own}": value for own, value in figures.items()}


def filled_rows(pair: Hidden, batch: Batch) -> Bool[Tensor, " B"]:
    """True pairs of which something is shown in both streams, with a slot at least."""
    return pair.scored.squeeze(1) & matched_rows(batch) & pair.hidden.any(1)
