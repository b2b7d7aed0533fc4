"""Are a trained layer's units better than those of MFCCs? On the real speech sample, beside the controls.

    mmpt hubert hubert_speech --out runs/hubert && python benchmarks/hubert_units.py runs/hubert

Every row is a k-means codebook of the same number of clusters, fitted to the training split. For each:

- probe: logistic regression on a recording's shares of units (is a sibilant heard?), accuracy on the test split with
  the 95 % interval over resampled groups, and the difference from plain MFCC units;
- PNMI: what a frame's unit tells of the prompt it is in (one of some hundreds, spoken by up to six voices), and of the
  voice, which units of speech should tell little of.

The controls: MFCCs averaged over 5 and 9 frames, for a trained layer averages over time as well; and every layer of the
same network as it was before training.
"""

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from scipy.ndimage import uniform_filter1d

from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.classify import Bootstrap, grouped_folds, linear_probe
from mmpt.downstream.labelled import find_labelled
from mmpt.downstream.units.corpus import Frames
from mmpt.downstream.units.features import FrameFeatures, LayerFeatures, MfccFeatures
from mmpt.downstream.units.fit import fit_codebook
from mmpt.downstream.units.quality import Tally

STREAM = "speech"


class SmoothedMfcc(FrameFeatures):
    """A control: MFCCs averaged over neighbouring frames."""

    def __init__(self, manifest: Manifest, frames: int) -> None:
        self.plain, self.frames = MfccFeatures(manifest, STREAM), frames
        self.stream, self.rate = STREAM, self.plain.rate
        self.settings = {**self.plain.settings, "mean_of": frames}

    def of(self, values: Sequence[Any]) -> list[Float[np.ndarray, "_ P"]]:
        """As many frames as before."""
        return [uniform_filter1d(own, self.frames, axis=0, mode="nearest") for own in self.plain.of(values)]


def contenders(manifest: Manifest, runs: Sequence[Path]) -> dict[str, FrameFeatures]:
    """By the name of their row; MFCCs first."""
    rows: dict[str, FrameFeatures] = {"MFCC": MfccFeatures(manifest, STREAM)}
    rows |= {f"MFCC, mean of {frames}": SmoothedMfcc(manifest, frames) for frames in (5, 9)}
    depth = len(LayerFeatures(runs[0], STREAM, layer=1).encoder.backbone.trunk.blocks)
    layers = range(1, depth + 1)
    rows |= {f"untrained, layer {n}": LayerFeatures(runs[0], STREAM, layer=n, untrained=True) for n in layers}
    for number, run in enumerate(runs, start=1):
        rows |= {f"round {number}, layer {n}": LayerFeatures(run, STREAM, layer=n) for n in layers}
    return rows


class Judge:
    """The labelled recordings and their classes, the same for every row."""

    def __init__(self, manifest: Manifest, seed: int) -> None:
        self.manifest = manifest
        splits = ("train", "test")
        self.found = find_labelled(
            manifest, "label", [STREAM], splits, max_samples=None, skip_unlabelled=False, seed=seed
        )
        found, self.test = self.found, self.found.indices("test")
        self.train = found.indices("train")
        groups = found.groups[self.train]
        self.folds = grouped_folds(self.train, found.labels[self.train], groups, seed)
        self.bootstrap = Bootstrap(found.labels[self.test], found.groups[self.test], seed)
        reader = Reader(manifest, ["labels"])
        voices = [str(reader.read(int(row))["labels"]["voice"]) for row in found.rows]
        self.voices, self.prompts = (
            np.unique(own, return_inverse=True)[1] for own in (voices, found.groups.astype(str))
        )
        self.plain: np.ndarray | None = None

    def row(self, name: str, features: FrameFeatures, clusters: int, seed: int) -> list[str]:
        """Cells of the table."""
        codebook = fit_codebook(features, self.manifest.folder, clusters=clusters, seed=seed)
        prompt, voice = Tally(clusters), Tally(clusters)
        shares = np.zeros((len(self.found.rows), clusters))
        frames = Frames(features, self.manifest, self.found.rows.tolist())
        for number, (_, own) in enumerate(frames):
            units = codebook.assign(own)
            shares[number] = np.bincount(units, minlength=clusters) / len(units)
            prompt.add(units, np.full(len(units), self.prompts[number]))
            voice.add(units, np.full(len(units), self.voices[number]))
        predicted = linear_probe(shares, self.found.labels, self.folds, self.train, self.test).predicted
        self.plain = predicted if self.plain is None else self.plain
        score = self.bootstrap.interval(predicted, "accuracy")
        gain = self.bootstrap.difference(predicted, self.plain, "accuracy")
        told, quality = voice.quality(codebook.rate), prompt.quality(codebook.rate)
        return [
            name,
            f"{float(codebook.rate or Fraction(0)):g}",
            f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]",
            f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
            f"{quality.pnmi:.3f}",
            f"{told.pnmi:.3f}",
            f"{1000 * (quality.seconds or 0):.0f} ms",
        ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder of 'mmpt hubert'")
    parser.add_argument("--shards", type=Path, default=Path("shards/speech"))
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    runs = sorted(folder / "run" for folder in arguments.out.glob("round-*"))
    manifest = load_manifest(arguments.shards)
    judge = Judge(manifest, arguments.seed)
    table = Table(title=f"{arguments.clusters} units of {arguments.shards}")
    for heading in ("features", "a second", "probe", "over MFCC", "PNMI, prompt", "PNMI, voice", "mean length"):
        table.add_column(heading, justify="left" if heading == "features" else "right")
    for name, features in contenders(manifest, runs).items():
        table.add_row(*judge.row(name, features, arguments.clusters, arguments.seed))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
