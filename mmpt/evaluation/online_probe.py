"""Probes while a run goes: a copy of the backbone is scored now and then, and the run itself is never touched."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from mmpt.build import build_backbone, load_weights
from mmpt.data.manifest import load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.classify import SCORES, Bootstrap, Fold, linear_probe, neighbour_probe
from mmpt.downstream.described import encoded, read_raw
from mmpt.downstream.encoder import Encoder
from mmpt.downstream.fields import check_fields
from mmpt.downstream.labelled import Labelled, find_labelled
from mmpt.downstream.probe import folds_of
from mmpt.encoders import Modality
from mmpt.errors import ConfigError, DataError
from mmpt.settings import OnlineProbeSettings, Recipe

PREFIX = "backbone."  # of the weights that a probe needs, in the whole model's names


class Looked(NamedTuple):
    """What probes found after a step: figures for the log, and sentences on what went wrong."""

    figures: dict[str, float]
    troubles: list[str]


class OnlineProbe:
    """One labelled data set: what can be checked is checked when it is made, before a run begins.

    Raises ConfigError, with the place in the recipe, for data, labels or streams that don't fit.
    """

    def __init__(self, name: str, settings: OnlineProbeSettings, modalities: Mapping[str, Modality], seed: int) -> None:
        self.name, self.settings, self.seed = name, settings, seed
        try:
            manifest = load_manifest(settings.data)
            asked = settings.streams or tuple(stream for stream in modalities if stream in manifest.fields)
            if not asked:
                there, ours = ", ".join(manifest.fields), ", ".join(modalities)
                raise DataError(f"{manifest.folder}: has the fields {there}, and none of the streams {ours}")
            check_fields("the recipe", modalities, manifest, asked)
            self.labelled: Labelled = find_labelled(
                manifest,
                settings.label,
                asked,
                settings.splits,
                max_samples=settings.max_samples,
                skip_unlabelled=settings.skip_unlabelled,
                seed=seed,
            )
            self.folds: list[Fold] = folds_of(self.labelled, seed)[0]
        except DataError as error:
            raise ConfigError(f"training.probes.{name}: {error}") from error
        self.reader = Reader(manifest, list(asked))
        self.checked = False

    def due(self, step: int, last: int) -> bool:
        """Before the first step, at every so many, and after the last."""
        return step % self.settings.every == 0 or step == last

    def scores(self, encoder: Encoder) -> dict[str, float]:
        """The score with its interval, and the commonest class's; raises DataError if too much can't be read."""
        if not self.checked:
            self._leave_out_unreadable()
        labelled, score = self.labelled, self.settings.score
        features, _ = encoded(encoder, (self.reader.read(int(row)) for row in labelled.rows))
        train, test = labelled.indices("train"), labelled.indices("test")
        labels, key = labelled.labels, f"probe/{self.name}/"
        majority = np.full(len(test), np.bincount(labels[train]).argmax())
        bootstrap = Bootstrap(labels[test], labelled.groups[test], self.seed)
        commonest = bootstrap.interval(majority, score).value
        if not np.isfinite(features).all():
            return {f"{key}{score}": math.nan, f"{key}commonest": commonest}
        fit = linear_probe if self.settings.kind == "linear" else neighbour_probe
        found = bootstrap.interval(fit(features, labels, self.folds, train, test, SCORES[score]).predicted, score)
        return {
            f"{key}{score}": found.value,
            f"{key}low": found.low,
            f"{key}high": found.high,
            f"{key}commonest": commonest,
        }

    def _leave_out_unreadable(self) -> None:
        kept, _, bad = read_raw(self.reader, self.labelled.rows, {}, None)
        if bad:
            self.labelled = self.labelled.only(kept)
            self.folds = folds_of(self.labelled, self.seed)[0]
        self.checked = True


class OnlineProbes:
    """All probes of a recipe, on one copy of its backbone.

    Weights come whole, from wherever ZeRO or divided experts keep them, and are loaded into the copy: neither the
    model's mode nor its hooks nor torch's generators see anything of it. Features are computed in float32, as
    `mmpt probe` does.
    """

    def __init__(self, recipe: Recipe, modalities: Mapping[str, Modality]) -> None:
        self.recipe, self.modalities = recipe, modalities
        seed = recipe.training.seed
        self.probes = [OnlineProbe(name, own, modalities, seed) for name, own in recipe.training.probes.items()]
        self._encoder: Encoder | None = None

    def due(self, step: int) -> bool:
        """Whether any looks after so many steps; the same on all ranks."""
        return any(probe.due(step, self.recipe.training.steps) for probe in self.probes)

    def look(self, weights: Mapping[str, Tensor], step: int, device: torch.device) -> Looked:
        """Scores of those that are due, by their names in the log.

        Args:
            weights: of the whole backbone, by their names in the model.
            step: that are done.
            device: to compute on.
        """
        encoder = self._loaded(weights, device)
        figures: dict[str, Any] = {}
        troubles = []
        with threadpool_limits(limits=1, user_api="blas"):  # the fits are small; torch's own threads stay as they are
            for probe in self.probes:
                if not probe.due(step, self.recipe.training.steps):
                    continue
                try:
                    figures |= probe.scores(encoder)
                except DataError as error:  # what only looks on stops no run
                    troubles.append(f"probe {probe.name}: {error}; the run goes on without this figure")
        return Looked(figures, troubles)

    def _loaded(self, weights: Mapping[str, Tensor], device: torch.device) -> Encoder:
        if self._encoder is None:
            backbone = build_backbone(self.recipe, self.modalities).requires_grad_(False).eval().to(device)
            self._encoder = Encoder(backbone, self.modalities, self.recipe, None, device)
        load_weights(self._encoder.backbone, weights, prefix=PREFIX)
        return self._encoder
