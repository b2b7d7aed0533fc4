"""Does pretraining help with few labels? Five modalities, pretrained beside from scratch beside a classical baseline.

    make pretrain && python benchmarks/downstream.py runs/five shards

For each modality's sample data and each seed: a stratified tenth of the training labels is drawn, all sides learn from
it, and all are scored on the same test split.

- pretrained: the run's encoder and a new head, all weights trained, lower layers more gently.
- from scratch: the same network with the weights that the run began with, all weights trained at one rate.
- classical: logistic regression on a plain description of the raw field (TF-IDF, pixels, MFCCs, signal, values).

Both networks are fitted at every learning rate of `--rates`; the validation split (whole, the same for all sides)
chooses the rate and the epoch, and the baseline's strength. Scores are means over seeds with their standard deviation;
accuracy, for ECG macro-F1. The gain's 95 % interval resamples groups of test samples and seeds together.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import mmpt
from mmpt.config import component
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.baselines import baseline_of
from mmpt.downstream.classify import SCORES, Bootstrap, linear_probe
from mmpt.downstream.encoder import Encoder
from mmpt.downstream.few_labels import draws_of, over_draws
from mmpt.downstream.labelled import Labelled, find_labelled
from mmpt.finetune import Classifier
from mmpt.finetune.strategies import Strategy

DATA = {"text": "text", "image": "images", "speech": "speech", "ecg": "ecg", "labs": "labs"}  # stream -> folder
LAYER_DECAY = {"pretrained": 0.75, "from scratch": 1.0}


class Sides(NamedTuple):
    """What each side says of the test samples, a row a seed."""

    guesses: dict[str, list[np.ndarray]]
    labels: int  # that were learned from


class Sample(NamedTuple):
    """A modality's labelled samples, read."""

    stream: str
    manifest: Manifest
    labelled: Labelled
    values: list[Any]

    @property
    def score(self) -> str:
        """Classes of heartbeats are of very different sizes."""
        return "macro_f1" if self.stream == "ecg" else "accuracy"

    def rows(self, places: np.ndarray) -> list[dict[str, Any]]:
        """As `fit` takes them."""
        names, own = self.labelled.classes, self.labelled
        return [
            {self.stream: self.values[n], "label": names[own.labels[n]], "group": str(own.groups[n])} for n in places
        ]


def read(stream: str, shards: Path) -> Sample:
    """All samples that have a label."""
    manifest = load_manifest(shards / DATA[stream])
    labelled = find_labelled(
        manifest, "label", [stream], ("train", "test"), max_samples=None, skip_unlabelled=True, seed=0
    )
    reader = Reader(manifest, [stream])
    return Sample(stream, manifest, labelled, [reader.read(int(row))[stream] for row in labelled.rows])


def classical(sample: Sample, drawn: np.ndarray) -> np.ndarray:
    """The baseline's guesses."""
    baseline = baseline_of(sample.manifest.fields[sample.stream])
    if baseline is None:
        raise SystemExit(f"{sample.stream}: there is no classical description of it")
    features = baseline.features([baseline.read(value) for value in sample.values], drawn)
    own = sample.labelled
    folds = [(drawn, own.indices("validation"))]
    return linear_probe(features, own.labels, folds, drawn, own.indices("test"), SCORES[sample.score]).predicted


def finetuned(
    sample: Sample, encoder: Encoder, side: str, drawn: np.ndarray, seed: int, arguments: argparse.Namespace
) -> np.ndarray:
    """The guesses of the rate that the validation split prefers."""
    best: tuple[float, np.ndarray] | None = None
    for rate in arguments.rates:
        task = Classifier(encoder, label="label", inputs=[sample.stream])
        strategy = component(Strategy, "full", learning_rate=rate, layer_decay=LAYER_DECAY[side])
        result = task.fit(
            sample.rows(drawn),
            sample.rows(sample.labelled.indices("validation")),
            strategy=strategy,
            metric=sample.score,
            epochs=max(arguments.epochs, -(-arguments.updates * 32 // len(drawn))),
            patience=arguments.patience,
            seed=seed,
        )
        score = result.metrics[sample.score].value
        if best is None or score > best[0]:
            known = sample.labelled.classes
            told = task.predict([{sample.stream: sample.values[n]} for n in sample.labelled.indices("test")])
            best = score, np.array([known.index(name) for name in told])
    assert best is not None
    return best[1]


def measure(sample: Sample, encoders: dict[str, Encoder], arguments: argparse.Namespace) -> Sides:
    """Every side with every seed."""
    guesses: dict[str, list[np.ndarray]] = {name: [] for name in (*encoders, "classical")}
    count = 0
    for seed in range(arguments.seeds):
        (drawn,) = draws_of(sample.labelled, arguments.share, 1, seed)
        count = len(drawn.rows)
        guesses["classical"].append(classical(sample, drawn.rows))
        for side, encoder in encoders.items():
            guesses[side].append(finetuned(sample, encoder, side, drawn.rows, seed, arguments))
    return Sides(guesses, count)


def row_of(sample: Sample, sides: Sides) -> list[str]:
    """Cells of the table."""
    own, test = sample.labelled, sample.labelled.indices("test")
    bootstrap = Bootstrap(own.labels[test], own.groups[test], 0)
    tables = {
        name: np.stack([bootstrap.scores(guess, sample.score) for guess in every])
        for name, every in sides.guesses.items()
    }
    gain = over_draws(tables["pretrained"], tables["from scratch"], 0)
    scores = [f"{table[:, 0].mean():.3f} ± {table[:, 0].std(ddof=1):.3f}" for table in tables.values()]
    told = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    return [f"{sample.stream} ({sample.score})", str(sides.labels), str(len(test)), *scores, told]


def main(given: Sequence[str] | None = None) -> None:
    """Print the table, and on how many modalities pretraining is ahead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="of a recipe with the five modalities")
    parser.add_argument("shards", type=Path, help="what 'mmpt samples' wrote")
    parser.add_argument("--share", type=float, default=0.1, help="of the training labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="at least")
    parser.add_argument("--updates", type=int, default=200, help="at least, of 32 samples each")
    parser.add_argument("--patience", type=int, default=8, help="epochs without a better one")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3])
    parser.add_argument("--streams", nargs="+", default=list(DATA), choices=list(DATA))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    encoders = {"pretrained": mmpt.load(arguments.run), "from scratch": mmpt.load(arguments.run, untrained=True)}
    console = Console(width=150)
    table = Table(title=f"{arguments.share:.0%} of the training labels, {arguments.seeds} seeds")
    for heading in ("", "labels", "test", *encoders, "classical", "pretrained over scratch"):
        table.add_column(heading, justify="left" if not heading else "right")
    ahead = 0
    for stream in arguments.streams:
        sample = read(stream, arguments.shards)
        cells = row_of(sample, measure(sample, encoders, arguments))
        console.print(*cells, sep="  ")
        ahead += cells[-1].startswith("+")
        table.add_row(*cells)
    console.print(table)
    console.print(f"pretrained is ahead of scratch on {ahead} of {len(arguments.streams)}")


if __name__ == "__main__":
    main()
