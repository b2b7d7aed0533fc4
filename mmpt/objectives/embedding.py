"""Post-training for embeddings, without labels: two views of a row find each other among those of other rows.

Mirror-BERT (Liu et al. 2021) for every modality; with `matryoshka` the embedding may be cut in depth and width (Li et
al. 2024), and with `apart` the streams of a row are the views. A source's `hard` negatives join the other rows.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmpt.config import Component, component, find_parts
from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.objectives import Hidden, Loss, Objective, Prediction, Step
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.info_nce import Rows, contrast
from mmpt.objectives.loss_prediction import Figures
from mmpt.objectives.masking.algebra import Masking
from mmpt.objectives.matryoshka import Cut, MatryoshkaSettings, cuts_of, divergence
from mmpt.objectives.views import ViewSettings, complete, noisy, second_view
from mmpt.pools import Pool, TokenLatents
from mmpt.pools.beside import LossBeside
from mmpt.randomness import fold
from mmpt.tokens import Batch, Shown, StreamContext, Tokens, gather
from mmpt.trunk import TrunkOutput

NAME = "embedding"


class View(NamedTuple):
    """One vector a row, by the block that it is of; None is the last."""

    vectors: dict[int | None, Float[Tensor, "B D"]]
    there: Bool[Tensor, " B"]  # rows of which something was shown
    output: TrunkOutput


class Embedding(Objective):
    """Contrast of pooled latents; the pool is trained along, and `encode(pool="own")` gives what the finished run has.

    Args:
        streams: what the second view of a stream lacks; every stream of the recipe that is not named has the defaults.
        noise: share of every token's features that is dropped before the first block and behind each, in both views.
        temperature: that cosines are divided by; the paper has 0.04 for sentences and 0.2 for words.
        own_side: the same views of other rows are negatives, too (NT-Xent), or only the other views (InfoNCE).
        pool: from the latents of a row to its vector; the same one pools behind every block that is a cut.
        apart: where a row has several streams, each goes through the trunk by itself, complete, and is a view.
        matryoshka: blocks and widths at which the embedding may be cut.
    """

    one_document = True  # a row is one sample: several documents of a packed one can't be one vector
    compares_rows = True

    def __init__(
        self,
        backbone: Backbone,
        modalities: Mapping[str, Modality],
        *,
        streams: dict[str, ViewSettings] | None = None,
        noise: float = 0.1,
        temperature: float = 0.04,
        own_side: bool = True,
        pool: Component[Pool] = component(Pool, "mean"),
        apart: bool = False,
        matryoshka: MatryoshkaSettings | None = None,
    ) -> None:
        super().__init__()
        _check_pool(pool)
        for name in streams or {}:
            if name not in modalities:
                raise ConfigError(f"objective.streams.{name}: no such stream; the recipe has {', '.join(modalities)}")
        if not 0 <= noise < 1 or temperature <= 0:
            raise ConfigError(
                "objective.noise, objective.temperature: expected a share below 1 and a positive number, "
                f"got {noise} and {temperature}"
            )
        if matryoshka is not None:
            matryoshka.check(backbone.trunk.depth, backbone.trunk.width)
        self.modalities = dict(modalities)
        self.noise, self.temperature, self.own_side = noise, temperature, own_side
        self.apart, self.matryoshka = apart, matryoshka
        self.settings = {name: (streams or {}).get(name, ViewSettings()) for name in modalities}
        width = backbone.trunk.width
        with torch.random.fork_rng(devices=[]):  # all other weights are drawn as with any other pool
            self.pool = pool.build(width)
        self.corruptions = nn.ModuleDict({name: own.corruption.build(width) for name, own in self.settings.items()})
        self.maskings = nn.ModuleDict(
            {name: Masking(modalities[name], own.masking) for name, own in self.settings.items() if own.masking}
        )

    def weights(self) -> dict[str, float]:
        """One loss."""
        return {NAME: 1.0}

    @torch.no_grad()
    def hide(self, batch: Batch, progress: float) -> dict[str, Hidden]:
        """The rows that ask; what a view lacks is a function of the row's key, drawn again where it is made."""
        streams = list(batch.streams.values())
        valid = [content.valid.any(1) for content in streams]
        asking = self._anchor(batch)
        if self.apart and len(streams) > 1:
            pairs = torch.stack([one & other & asking for one, other in combinations(valid, 2)])
        else:
            pairs = (torch.stack(valid).any(0) & asking).unsqueeze(0)
        column = pairs.any(0).unsqueeze(1)
        return {NAME: Hidden(torch.zeros_like(column), column, None, pairs.sum().float())}

    def forward(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden], progress: float) -> Step:
        """The sum over pairs of views of every row that asks."""
        trunk = backbone.trunk
        cuts = cuts_of(self.matryoshka, batch.position, trunk.depth, trunk.width)
        views = self._views(backbone, batch, progress, cuts)
        each, figures = torch.zeros_like(batch.uid, dtype=torch.float32), {}
        for one, other in combinations(views, 2):
            rows = Rows(batch.uid, self._anchor(batch), one.there & other.there)
            loss, more = self._pair(one, other, rows, cuts)
            each = each + loss
            figures = {name: _added(figures.get(name), value) for name, value in more.items()}
        balance, router_z = (
            torch.stack([getattr(view.output, name) for view in views]).mean() for name in ("balance", "router_z")
        )
        metrics = {f"{NAME}/{name}": value for name, value in figures.items()}
        metrics |= views[0].output.metrics(list(backbone.numbers))
        return Step({NAME: Loss(each.sum(), each.detach())}, balance, router_z, metrics)

    def _pair(self, one: View, other: View, rows: Rows, cuts: list[Cut]) -> tuple[Float[Tensor, " B"], Figures]:
        """Losses of one pair of views: the whole embedding's and those of its cuts."""
        each, figures = None, {}
        for cut in cuts:
            first, second = (view.vectors[cut.layer][:, : cut.width] for view in (one, other))
            loss, found = contrast(first, second, rows, temperature=self.temperature, own_side=self.own_side)
            if each is None:
                each, figures = loss, _figures(first, loss, found, rows)
            else:
                each = each + cut.weight * loss
        layers = {cut.layer for cut in cuts} - {None}
        assert each is not None
        if self.matryoshka is not None and self.matryoshka.alignment:
            for layer in layers:
                apart = self._divergence(one, other, cast("int", layer))
                each = each + self.matryoshka.alignment * torch.where(rows.asking, apart, 0.0)
        return each, figures

    def _divergence(self, one: View, other: View, layer: int) -> Float[Tensor, " B"]:
        temperature = cast("MatryoshkaSettings", self.matryoshka).temperature
        both = [divergence(view.vectors[None], view.vectors[layer], temperature) for view in (one, other)]
        return torch.stack(both).mean(0)

    def by_layer(self, backbone: Backbone, batch: Batch) -> Float[Tensor, " L"]:
        """The mean loss of the rows that ask, pooled behind each block."""
        depth = backbone.trunk.depth
        cuts = [Cut(None if layer == depth else layer, None, 1.0) for layer in range(1, depth + 1)]
        losses = []
        for one, other in combinations(self._views(backbone, batch, 0.0, cuts), 2):
            rows = Rows(batch.uid, self._anchor(batch), one.there & other.there)
            for cut in cuts:
                first, second = (view.vectors[cut.layer] for view in (one, other))
                each, _ = contrast(first, second, rows, temperature=self.temperature, own_side=self.own_side)
                losses.append(each.sum() / rows.asking.sum().clamp(min=1))
        return torch.stack(losses).view(-1, depth).mean(0)

    def _views(self, backbone: Backbone, batch: Batch, progress: float, cuts: list[Cut]) -> list[View]:
        tokens = backbone.embed(batch)
        layers = [cut.layer for cut in cuts if cut.layer is not None]
        if self.apart and len(tokens) > 1:
            chosen = [complete({name: own}) for name, own in tokens.items()]
        else:
            corruptions = {name: cast("Corruption", part) for name, part in self.corruptions.items()}
            maskings = {name: cast("Masking", part) for name, part in self.maskings.items()}
            second = second_view(backbone, tokens, batch, self.settings, maskings, corruptions, progress)
            chosen = [complete(tokens), second]
        return [self._view(backbone, batch, number, shown, layers) for number, shown in enumerate(chosen)]

    def _view(self, backbone: Backbone, batch: Batch, number: int, shown: dict[str, Shown], layers: list[int]) -> View:
        draw = fold(fold(batch.draw, "view"), number)
        shown, between = noisy(self.noise if self.training else 0.0, shown, draw)
        sizes = {name: batch.streams[name].valid.shape[1] for name in shown}
        latents, output = backbone.mix(shown, sizes, draw, layers, between)
        states = {layer: backbone.trunk.finish(output.inner[layer].x) for layer in layers}
        looked_at = _by_stream(batch, shown, latents)
        vectors: dict[int | None, Tensor] = {None: self.pool(looked_at).float()}
        vectors |= {layer: self.pool(_with_latents(looked_at, x)).float() for layer, x in states.items()}
        return View(vectors, latents.valid.any(1), output)

    def _anchor(self, batch: Batch) -> Bool[Tensor, " B"]:
        return torch.ones_like(batch.uid, dtype=torch.bool) if batch.anchor is None else batch.anchor

    def touch(self, backbone: Backbone, batch: Batch) -> Float[Tensor, ""]:
        """A row of padding through encoder and corruption of every absent stream, and all corruptions where unused."""
        total = batch.draw.new_zeros((), dtype=torch.float32)
        for name, modality in self.modalities.items():
            used = name in batch.streams and not (self.apart and len(batch.streams) > 1)
            if not used:
                total = total + self._touched(backbone, name, modality, batch)
        return total

    def _touched(self, backbone: Backbone, name: str, modality: Modality, batch: Batch) -> Float[Tensor, ""]:
        encoder, draw = backbone.encoder(name), batch.draw[:1]
        content = modality.collate([[]], None).to(draw.device)
        tokens = encoder(content)
        context = StreamContext(content, draw, 1.0)
        shown = self.corruptions[name](tokens, torch.zeros_like(content.valid), context)
        settled = encoder.settle(shown, content.valid.shape[1]).tokens
        return settled.x.float().sum() + settled.position.float().sum()

    def after_update(self, backbone: Backbone, progress: float) -> None:
        """Nothing follows the weights."""

    def predict(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden]) -> dict[str, Prediction]:
        """Nothing is predicted of what is hidden."""
        return {}


def _check_pool(pool: Component[Pool]) -> None:
    """Views have any number of streams, and the contrast is the only loss."""
    if not _can_pool(pool.target):
        fitting = [name for name, kind in find_parts(Pool.__module__, Pool).items() if _can_pool(kind)]
        raise ConfigError(
            f"objective.pool: '{pool.name}' joins a fixed number of streams or has a loss of its own, which a contrast "
            f"of views has no place for; use {', '.join(fitting)}"
        )


def _can_pool(kind: type) -> bool:
    return not cast("type[Pool]", kind).streams and not issubclass(kind, LossBeside)


def _by_stream(batch: Batch, shown: Mapping[str, Shown], latents: Tokens) -> dict[str, TokenLatents]:
    """Latents of all streams side by side, in the order of `shown`, as pools take them."""
    sizes = [part.places.shape[1] for part in shown.values()]
    streams = {}
    for (name, part), x, valid in zip(
        shown.items(), latents.x.float().split(sizes, dim=1), latents.valid.split(sizes, dim=1), strict=True
    ):
        content = batch.streams[name]
        observed, place = (gather(own, part.places) for own in (content.observed, content.place))
        streams[name] = TokenLatents(x, valid, observed & valid, place)
    return streams


def _with_latents(streams: Mapping[str, TokenLatents], x: Float[Tensor, "B S D"]) -> dict[str, TokenLatents]:
    """The same tokens behind another block."""
    parts = x.float().split([own.valid.shape[1] for own in streams.values()], dim=1)
    return {name: own._replace(latents=part) for (name, own), part in zip(streams.items(), parts, strict=True)}


def _added(before: tuple[Tensor, Tensor] | None, value: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return value if before is None else (before[0] + value[0], before[1] + value[1])


@torch.no_grad()
def _figures(
    vectors: Float[Tensor, "B D"], each: Float[Tensor, " B"], found: Bool[Tensor, "2 B"], rows: Rows
) -> Figures:
    """`found`: views whose other one is the most similar. `similarity`: mean cosine of vectors of different rows."""
    count = rows.asking.sum().float()
    unit = torch.nn.functional.normalize(vectors.float(), dim=1) * rows.there.unsqueeze(1)
    there = rows.there.sum().float()
    return {
        "loss": (each.sum(), count),
        "found": (found.sum().float(), 2 * count),
        "similarity": (unit.sum(0).square().sum() - there, there * (there - 1)),
    }
