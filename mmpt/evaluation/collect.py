"""What a run's model makes of samples: latents of each block with tokens hidden as in training, and with none."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmpt.evaluation.spectrum import Moments, row_cosines
from mmpt.model import Backbone
from mmpt.objectives import Hidden
from mmpt.objectives.context import context_of
from mmpt.objectives.latents import Seen, latents_of
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.predictors import Latents
from mmpt.objectives.several_masks import first_mask
from mmpt.objectives.stream_objective import StreamObjective
from mmpt.tokens import Batch, Content, flatten, gather, replace, score
from mmpt.trunk import TrunkOutput

GROUPS = ("complete", "real", "masked")  # tokens of complete rows; shown ones beside hidden ones; and the hidden ones
LOGITS = 1024  # tokens whose logits are kept


class Codes(NamedTuple):
    """How often each code of a set was the target, and was predicted."""

    true: Int[Tensor, " V"]
    predicted: Int[Tensor, " V"]


@dataclass
class StreamSeen:
    """Sums of one stream; `moments` by group and block, `alike` a sum and a count by block."""

    moments: dict[tuple[str, int], Moments] = field(default_factory=dict)
    alike: dict[int, tuple[float, int]] = field(default_factory=dict)
    codes: list[Codes] = field(default_factory=list)
    logits: list[Float[Tensor, "M P"]] = field(default_factory=list)
    scored: int = 0

    def of(self, group: str, layer: int) -> Moments:
        """Sums of no tokens where the group has none."""
        return self.moments.get((group, layer)) or Moments(len(self.moments["complete", layer].total))


@dataclass
class Collected:
    """All streams, and what experts were chosen, (streams, E) by block."""

    streams: dict[str, StreamSeen]
    loads: dict[int, Float[Tensor, "streams E"]] = field(default_factory=dict)


@torch.no_grad()
def collect(
    backbone: Backbone, objective: MaskedPrediction | None, batches: Iterable[Batch], progress: float
) -> Collected:
    """Over all batches; the model is in eval mode, and nothing of it changes. Without objective nothing is hidden."""
    streams: dict[str, StreamSeen] = defaultdict(StreamSeen)
    found = Collected(streams)
    layers = range(1, backbone.trunk.depth + 1)
    for batch in batches:
        output = _complete(backbone, batch, layers, streams, keep=objective is None)
        for layer, routing in output.routings.items():
            found.loads[layer] = found.loads.get(layer, 0.0) + routing.chosen.cpu().double()
        if objective is None:
            continue
        hidden = objective.hide(batch, progress)
        hidden = {name: first_mask(hidden[name], len(batch.uid)) for name in batch.streams}
        corruptions = {name: objective.part(name).corruption for name in batch.streams}
        seen = latents_of(backbone, corruptions, batch, hidden, progress, layers)
        for name, latents in seen.latents.items():
            drops = corruptions[name].drops
            _masked(streams[name], latents, batch.streams[name], hidden[name].hidden, drops=drops)
            _predicted(streams[name], objective.part(name), batch, name, seen, hidden[name], progress)
    found.streams = dict(streams)
    return found


def _complete(
    backbone: Backbone, batch: Batch, layers: range, streams: Mapping[str, StreamSeen], *, keep: bool
) -> TrunkOutput:
    """Rows of which nothing is hidden: what downstream work sees."""
    embedded = backbone.embed(batch)
    shown = {name: replace(tokens, tokens.x) for name, tokens in embedded.items()}
    sizes = {name: tokens.x.shape[1] for name, tokens in embedded.items()}
    _, output = backbone.mix(shown, sizes, batch.draw, layers)
    for layer in layers:
        x = output.latents if layer == layers[-1] else output.inner[layer].x
        x = x.float().cpu()  # sums are in float64, which not every device has
        for name, own in zip(sizes, x.split(list(sizes.values()), dim=1), strict=True):
            content, seen = batch.streams[name], streams[name]
            chosen, place = (content.valid & content.observed).cpu(), content.place.cpu()
            _add(seen, "complete", layer, own, chosen, place, keep=keep or layer == layers[-1])
            total, rows = row_cosines(own, chosen)
            before = seen.alike.get(layer, (0.0, 0))
            seen.alike[layer] = before[0] + total, before[1] + rows
    return output


def _masked(seen: StreamSeen, latents: Latents, content: Content, hidden: Bool[Tensor, "B N"], *, drops: bool) -> None:
    """Shown and hidden tokens of one pass; what was dropped is in no block."""
    places, valid = latents.shown.places, latents.shown.tokens.valid
    behind = hidden.gather(1, places) & valid
    real = content.observed.gather(1, places) & valid & ~behind
    place = content.place.gather(1, places)
    for layer, x in (latents.inner or {}).items():
        _add(seen, "real", layer, x.float(), real, place, keep=drops)
        _add(seen, "masked", layer, x.float(), behind, place, keep=not drops)


def _add(
    seen: StreamSeen,
    group: str,
    layer: int,
    x: Float[Tensor, "B N D"],
    chosen: Bool[Tensor, "B N"],
    place: Int[Tensor, "B N"],
    *,
    keep: bool,
) -> None:
    own = seen.moments.setdefault((group, layer), Moments(x.shape[2], keep=keep))
    own.add(x[chosen], place[chosen])


def _predicted(
    seen: StreamSeen, part: StreamObjective, batch: Batch, name: str, sight: Seen, hidden: Hidden, progress: float
) -> None:
    """Logits and codes, where what is predicted is one of several."""
    target = _labels(part, batch, name, sight, progress)
    if target is None:
        return
    scored = score(hidden.scored, hidden.hidden_count)
    logits = part.predictor(sight.latents[name], batch.streams[name], scored).float()
    true = flatten(gather(target, scored.places), scored)
    seen.scored += len(logits)
    left = LOGITS - sum(map(len, seen.logits))
    if left > 0:
        seen.logits.append(logits[:left].cpu())
    if part.target.parts or part.target.latent:
        _count(seen, logits, true.view(len(true), -1), part.target.parts)


def _labels(
    part: StreamObjective, batch: Batch, name: str, sight: Seen, progress: float
) -> Shaped[Tensor, "B N ..."] | None:
    """The target, where it is a number of a class and the batch has it."""
    target = part.target
    if target.layers or (target.parts and batch.streams[name].units is None):
        return None
    context = context_of(batch, name, progress)
    if not part.corruption.drops:
        context = context._replace(embedded=sight.embedded[name].x)
    values = target(context)
    return None if values.is_floating_point() else values


def _count(seen: StreamSeen, logits: Float[Tensor, "M P"], true: Int[Tensor, "M U"], parts: tuple[int, ...]) -> None:
    sizes = parts or (logits.shape[1] // true.shape[1],) * true.shape[1]
    if not seen.codes:
        seen.codes = [Codes(*(torch.zeros(size, dtype=torch.int64) for _ in range(2))) for size in sizes]
    for codes, own, label in zip(seen.codes, logits.split(list(sizes), dim=1), true.unbind(1), strict=True):
        codes.true.add_(label.cpu().bincount(minlength=len(codes.true)))
        codes.predicted.add_(own.argmax(1).cpu().bincount(minlength=len(codes.predicted)))


def output_matrix(part: StreamObjective) -> Float[Tensor, "P W"] | None:
    """The last matrix of the predictor, with a row for each class; the table of a tied one."""
    found = None
    for _, parameter in part.predictor.named_parameters(remove_duplicate=False):
        if parameter.ndim == 2 and parameter.shape[0] == part.target.size:
            found = parameter.detach()
    return found
