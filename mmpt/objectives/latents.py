"""From what is hidden to latents: show the rest of every stream, mix all of them once."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import NamedTuple

import torch

from mmpt.model import Backbone
from mmpt.objectives import Hidden
from mmpt.objectives.context import context_of
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.mask_tokens import LayerWeights
from mmpt.objectives.predictors import Latents
from mmpt.objectives.swap import SwapSettings, both_views, draws_of_both, exchange_of, views_of
from mmpt.tokens import Batch, Content, Scored, Shown, Tokens, concatenate, drop_content, replace
from mmpt.trunk import TrunkOutput


class Seen(NamedTuple):
    """What the backbone made of what it was shown."""

    latents: dict[str, Latents]
    output: TrunkOutput
    embedded: dict[str, Tokens]  # before any was replaced; without those that are dropped
    clean: dict[str, Latents]  # of the complete view, where there is one


def latents_of(
    backbone: Backbone,
    corruptions: Mapping[str, Corruption],
    batch: Batch,
    hidden: Mapping[str, Hidden],
    progress: float,
    layers: Collection[int] = (),
    swap: SwapSettings | None = None,
    muting: LayerWeights | None = None,
) -> Seen:
    """Every stream of the batch, hidden tokens of each corrupted in its way, and what the blocks in `layers` give.

    With `swap` the complete row goes through the trunk beside it; with `muting` hidden tokens are looked at less.
    """
    tokens, shown = _shown(backbone, corruptions, batch, hidden, progress)
    sizes = {name: content.valid.shape[1] for name, content in batch.streams.items()}
    draw, exchange = batch.draw, None
    if swap is not None:
        shown = {name: both_views(part, tokens[name]) for name, part in shown.items()}
        draw, exchange = draws_of_both(draw), exchange_of(swap, batch, hidden, shown)
    muted = None
    if muting is not None:
        places = torch.cat([hidden[name].hidden for name in shown], dim=1)
        muted = muting(places if swap is None else torch.cat([places, torch.zeros_like(places)]))
    every, output = backbone.mix(shown, sizes, draw, layers, exchange, muted)
    lengths = [part.places.shape[1] for part in shown.values()]
    split = dict(zip(shown, every.x.split(lengths, dim=1), strict=True))
    states = {n: every.x if n == backbone.trunk.depth else own.x for n, own in output.inner.items()}
    inner = {layer: dict(zip(shown, x.split(lengths, dim=1), strict=True)) for layer, x in states.items()}
    latents = {
        name: Latents(split[name], shown[name], every, draw, {layer: own[name] for layer, own in inner.items()})
        for name in shown
    }
    if swap is None:
        return Seen(latents, output, tokens, {})
    masked, clean = ({name: views_of(own)[view] for name, own in latents.items()} for view in (0, 1))
    return Seen(masked, output, tokens, clean)


def _shown(
    backbone: Backbone,
    corruptions: Mapping[str, Corruption],
    batch: Batch,
    hidden: Mapping[str, Hidden],
    progress: float,
) -> tuple[dict[str, Tokens], dict[str, Shown]]:
    """Every stream embedded, and what is shown of it."""
    kept = {
        name: drop_content(content, hidden[name].hidden, hidden[name].hidden_count)
        for name, content in batch.streams.items()
        if corruptions[name].drops and backbone.encoder(name).tokenwise
    }
    contents = {name: content for name, (content, _) in kept.items()}
    tokens = backbone.embed(batch._replace(streams={**batch.streams, **contents}))
    shown = {}
    for name, embedded in tokens.items():
        if name in kept:
            shown[name] = Shown(embedded, kept[name][1])
            continue
        content = batch.streams[name]
        context = context_of(batch, name, progress)._replace(
            hidden_count=hidden[name].hidden_count, substitute=partial(backbone.encoder(name).substitute, content)
        )
        shown[name] = corruptions[name](embedded, hidden[name].hidden, context)
    return tokens, shown


def of_complete(backbone: Backbone, batch: Batch) -> dict[str, Latents]:
    """Every stream of the batch, nothing hidden."""
    streams = backbone(batch)
    every = concatenate(list(streams.values()))
    return {name: Latents(own.x, replace(own, own.x), every, batch.draw) for name, own in streams.items()}


def all_places(content: Content) -> Scored:
    """Padding too: its numbers are never looked at, and nothing waits for the device to know how many there are."""
    places = torch.arange(content.valid.shape[1], device=content.valid.device).expand(content.valid.shape)
    return Scored(places, torch.ones_like(content.valid), full=True)
