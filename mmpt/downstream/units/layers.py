"""Which block of a trunk to cluster: the one whose units tell most of given labels (HuBERT, Hsu et al. 2021)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from mmpt.data.codebook import Codebook
from mmpt.data.manifest import load_manifest
from mmpt.downstream.units.corpus import Frames, rows_with
from mmpt.downstream.units.features import LayerFeatures
from mmpt.downstream.units.fit import in_random_order, k_means
from mmpt.downstream.units.given import GivenLabels, open_given
from mmpt.downstream.units.quality import Tally
from mmpt.errors import DataError

FRAMES = 50_000  # that a layer is judged by at most: bounds time and memory
JUDGED_ON = "validation"


@dataclass(frozen=True)
class LayerChoice:
    """PNMI of every block's units, in order.

    Args:
        against: the labels.
        on: the split that they are of.
        frames: that were scored.
        clusters: V.
        pnmi: of each block, from the first.
    """

    against: str
    on: str
    frames: int
    clusters: int
    pnmi: tuple[float, ...]

    @property
    def best(self) -> int:
        """The block, from 1; of equally good ones the first."""
        return int(np.argmax(self.pnmi)) + 1

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a codebook keeps of the choice."""
        return {
            "against": self.against,
            "on": self.on,
            "frames": self.frames,
            "clusters": self.clusters,
            "pnmi": list(self.pnmi),
        }

    def table(self) -> Table:
        """For the terminal."""
        table = Table("layer", "PNMI", "", title=f"{self.clusters} units against '{self.against}', {self.on} split")
        for layer, value in enumerate(self.pnmi, start=1):
            table.add_row(str(layer), f"{value:.4f}", "chosen" if layer == self.best else "")
        return table


def choose_layer(
    features: LayerFeatures,
    data: str | Path,
    *,
    against: str,
    clusters: int,
    split: str = "train",
    seed: int = 0,
    workers: int = 0,
    console: Console | None = None,
) -> LayerChoice:
    """Score each block: k-means on a part of the split, PNMI on the validation split, or on the same if there is none.

    At most 50,000 frames and those of one sample more are fitted, and as many are scored.

    Args:
        features: of any block of the run.
        data: a data set.
        against: a label of the samples, or a field with a label of each frame.
        clusters: V.
        split: that the centroids are of.
        seed: of the order of samples and the starts of k-means.
        workers: processes that compute features; 0: this one.
        console: shows progress and the scores; None is quiet.

    Raises:
        DataError: no labels, or none that differ.
    """
    manifest = load_manifest(data)
    rows = in_random_order(rows_with(manifest, features.stream, split), seed)
    present = manifest.column(f"{features.stream}.offset") >= 0
    there = set(np.asarray(manifest.column("split"), dtype=object)[present])
    on = JUDGED_ON if JUDGED_ON in there else split
    judged = in_random_order(rows_with(manifest, features.stream, on), seed)
    given = open_given(manifest, judged, against)
    scores, count = [], 0
    for layer in range(1, features.depth + 1):
        own, title = features.of_layer(layer), f"layer {layer} of {features.depth}"
        fitted = [x for _, x in _bounded(Frames(own, manifest, rows, workers=workers, console=console, title=title))]
        centroids = k_means(lambda fitted=fitted: fitted, clusters=clusters, seed=seed)
        codebook = Codebook(centroids, own.rate, own.stream, own.settings)
        frames = Frames(own, manifest, judged, workers=workers, console=console, title=f"{title}, scores")
        score, count = _score(codebook, _bounded(frames), given)
        scores.append(score)
    choice = LayerChoice(against, on, count, clusters, tuple(scores))
    if console is not None:
        console.print(choice.table())
    return choice


def _bounded(frames: Frames) -> list[tuple[int, Float[np.ndarray, "_ P"]]]:
    found, count = [], 0
    for row, own in frames:
        found.append((row, own))
        count += len(own)
        if count >= FRAMES:
            break
    return found


def _score(
    codebook: Codebook, frames: Sequence[tuple[int, Float[np.ndarray, "_ P"]]], given: GivenLabels
) -> tuple[float, int]:
    tally, labels = Tally(codebook.clusters), set()
    for row, own in frames:
        mine = given.of(row, len(own), codebook.rate)
        if mine is not None:
            tally.add(codebook.assign(own), mine)
            labels.update(np.unique(mine[mine >= 0]).tolist())
    quality = tally.quality(codebook.rate)
    if quality.pnmi is None or len(labels) < 2:
        raise DataError(f"labels of {len(labels)} classes can't tell layers apart; expected at least 2")
    return quality.pnmi, quality.frames
