"""An embedding cut in depth and width: what each block's first numbers find (2-D Matryoshka, Li et al. 2024).

    python benchmarks/cuts.py runs/contrast shards/images --streams image,text
    python benchmarks/cuts.py runs/mirror_ecg shards/ecg --streams ecg --label label

- two streams: recall of the first K by cosine on the test split, one way and back.
- one stream and a label: macro-F1 of the five nearest training samples by cosine, on the test split.
- cosine: of two samples, on average, at full width; 1 where all vectors point the same way.

The vector is that of the run's own pool behind a block and the final norm, as `encode(pool="own")` gives it; of a run
without one the mean over observed tokens.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from torch.nn.functional import normalize

from mmpt.build import build_backbone, load_weights
from mmpt.compress.blocks import depth_of, first_blocks
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.encoder import Encoder, find_checkpoint, load
from mmpt.downstream.labelled import find_labelled
from mmpt.downstream.retrieval import first_ranks, items_of, right_answers
from mmpt.training import checkpoint

NEIGHBOURS = 5
Vectors = Float[torch.Tensor, "n D"]


def by_depth(run: Path) -> Iterator[Encoder]:
    """The run's encoder with its first block, its first two, and so on."""
    whole = load(run)
    weights = checkpoint.load(find_checkpoint(run), moments=False).weights
    for count in range(1, depth_of(whole.recipe) + 1):
        recipe, kept = first_blocks(whole.recipe, weights, count)
        backbone = build_backbone(recipe, whole.modalities)
        load_weights(backbone, kept, prefix="backbone.")
        backbone.requires_grad_(False).eval().to(whole.device)
        yield replace(whole, backbone=backbone, recipe=recipe, run=None)


def vectors_of(encoder: Encoder, samples: Iterable[Mapping[str, Any]]) -> Vectors:
    """One a sample, uncut."""
    return encoder.encode(samples, pool="mean" if encoder.own is None else "own")


def cut(vectors: Vectors, width: int) -> Float[np.ndarray, "n W"]:
    """The first numbers, of length 1."""
    return normalize(vectors[:, :width], dim=1).numpy()


def alike(vectors: Vectors) -> float:
    """Mean cosine of two different vectors."""
    unit = normalize(vectors, dim=1)
    return float((unit.sum(0).square().sum() - len(unit)) / (len(unit) * (len(unit) - 1)))


class Pairs:
    """Recall both ways over a split; a text that several samples share is one item."""

    def __init__(self, manifest: Manifest, streams: Sequence[str], split: str, k: int) -> None:
        rows = manifest.split_rows(split)
        rows = rows[np.all([manifest.column(f"{name}.offset")[rows] >= 0 for name in streams], axis=0)]
        reader = Reader(manifest, list(streams))
        samples = [reader.read(int(row)) for row in rows]
        reader.close()
        self.streams, self.k = tuple(streams), k
        self.values = {name: [sample[name] for sample in samples] for name in streams}
        self.items = {name: items_of(self.values[name]) for name in streams}
        self.title = f"recall at {k}, {' -> '.join(streams)} / back, {len(rows)} pairs"

    def told(self, encoder: Encoder, widths: Sequence[int]) -> list[str]:
        """A cell a width, then the mean cosine of either stream."""
        sides = {
            name: vectors_of(encoder, ({name: self.values[name][min(pairs)]} for pairs in items))
            for name, items in self.items.items()
        }
        cells = [" / ".join(f"{recall:.3f}" for recall in self._recalls(sides, width)) for width in widths]
        return [*cells, " / ".join(f"{alike(own):.3f}" for own in sides.values())]

    def _recalls(self, sides: dict[str, Vectors], width: int) -> Iterator[float]:
        for ask, answer in (self.streams, self.streams[::-1]):
            right = right_answers(self.items[ask], self.items[answer])
            similar = cut(sides[ask], width) @ cut(sides[answer], width).T
            yield float((first_ranks(similar, right) <= self.k).mean())


class Neighbours:
    """Macro-F1 of the nearest training samples."""

    def __init__(self, manifest: Manifest, stream: str, label: str, most: int) -> None:
        splits = ("train", "test")
        self.found = find_labelled(manifest, label, [stream], splits, max_samples=most, skip_unlabelled=True, seed=0)
        reader = Reader(manifest, [stream])
        self.samples = [reader.read(int(row)) for row in self.found.rows]
        reader.close()
        self.train, self.test = self.found.indices("train"), self.found.indices("test")
        counts = f"{len(self.train)} training and {len(self.test)} test samples"
        self.title = f"macro-F1 of {label}, {NEIGHBOURS} neighbours, {counts}"

    def told(self, encoder: Encoder, widths: Sequence[int]) -> list[str]:
        """A cell a width, then the mean cosine."""
        vectors, labels = vectors_of(encoder, self.samples), self.found.labels
        cells = []
        for width in widths:
            unit = cut(vectors, width)
            near = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(unit[self.train], labels[self.train])
            cells.append(f"{f1_score(labels[self.test], near.predict(unit[self.test]), average='macro'):.3f}")
        return [*cells, f"{alike(vectors):.3f}"]


def main(given: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, help="a data set with a test split")
    parser.add_argument("--streams", required=True, metavar="A[,B]", help="two of a pair, or one with --label")
    parser.add_argument("--label", metavar="FIELD", help="key of the labels")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 32], help="the full one is always told")
    parser.add_argument("--k", type=int, default=10, help="of recall")
    parser.add_argument("--max-samples", type=int, default=1500, help="of each split, for neighbours")
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    manifest, streams = load_manifest(arguments.data), arguments.streams.split(",")
    if (len(streams) == 2) == bool(arguments.label) or len(streams) > 2:
        parser.error("--streams takes two of a pair, or one stream and --label")
    measure = Pairs(manifest, streams, "test", arguments.k) if len(streams) == 2 else None
    measure = measure or Neighbours(manifest, streams[0], arguments.label, arguments.max_samples)
    width = load(arguments.run).width
    widths = [*(own for own in arguments.widths if own < width), width]
    table = Table("blocks", *(f"first {own}" for own in widths), "cosine", title=f"{arguments.run}: {measure.title}")
    for depth, encoder in enumerate(by_depth(arguments.run), start=1):
        table.add_row(str(depth), *measure.told(encoder, widths))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
