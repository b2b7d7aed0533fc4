"""Does pretraining help with few labels? Five modalities, pretrained beside from scratch beside a classical baseline.

    mmpt samples shards && mmpt pretrain five_long && python benchmarks/downstream.py runs/five_long shards

For each modality's sample data and each seed: a stratified tenth of the training labels is drawn, all sides learn from
it, and all are scored on the same test split.

- pretrained: the run's encoder and a new head, all weights trained.
- from scratch: the same network with the weights that the run began with, and all else alike.
- classical: logistic regression on a plain description of the raw field (TF-IDF, pixels, MFCCs, signal, values).

Both networks are fitted with every pair of `--rates` and `--decays` (of lower layers' rates); the pair of the best mean
validation score over the first `--search` seeds is taken for all seeds. The validation split, at most `--validation`
samples of it, also chooses the epoch, and the baseline's strength. Scores are means over seeds with their standard
deviation; accuracy, for ECG macro-F1. The gain's 95 % interval resamples groups of test samples and seeds together.
"""

import argparse
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from itertools import product
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
from mmpt.encoders import Modality
from mmpt.finetune import Classifier
from mmpt.finetune.strategies import Strategy

DATA = {"text": "text", "image": "images", "speech": "speech", "ecg": "ecg", "labs": "labs"}  # stream -> folder
BATCH = 32


class Side(NamedTuple):
    """What one side says of the test samples, a row a seed, and the settings it says it with."""

    guesses: list[np.ndarray]
    chosen: str = ""


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


def read(stream: str, shards: Path, most_validation: int) -> Sample:
    """All samples that have a label, but of the validation split no more than so many."""
    manifest = load_manifest(shards / DATA[stream])
    labelled = find_labelled(
        manifest, "label", [stream], ("train", "test"), max_samples=None, skip_unlabelled=True, seed=0
    )
    kept, validation = labelled.splits != "validation", labelled.indices("validation")
    few = np.random.default_rng(0).permutation(validation)[:most_validation]
    kept[few] = True
    labelled, reader = labelled.only(kept), Reader(manifest, [stream])
    return Sample(stream, manifest, labelled, [reader.read(int(row))[stream] for row in labelled.rows])


def remembering(modality: Modality) -> Modality:
    """It reads a value of the shards once, unless it reads it otherwise every time; there is nothing to convert."""
    known: dict[int, tuple[Any, np.ndarray]] = {}  # with the value, so that no other gets its id

    def read(value: Any, start: int, stop: int, draw: int | None) -> np.ndarray:
        if draw is not None and modality.augments:
            return modality.read(value, start, stop, draw)
        if id(value) not in known:
            known[id(value)] = value, modality.read(value, start, stop, None)
        return known[id(value)][1]

    own = copy(modality)
    vars(own).update(read=read, convert=lambda value: value)  # past the frozen dataclass
    return own


def encoder_of(run: Path, *, untrained: bool) -> Encoder:
    """Its modalities remember what they have read."""
    encoder = mmpt.load(run, untrained=untrained)
    return replace(encoder, modalities={name: remembering(own) for name, own in encoder.modalities.items()})


def classical(sample: Sample, draws: Sequence[np.ndarray]) -> Side:
    """The baseline's guesses."""
    baseline = baseline_of(sample.manifest.fields[sample.stream])
    if baseline is None:
        raise SystemExit(f"{sample.stream}: there is no classical description of it")
    own, kept = sample.labelled, [baseline.read(value) for value in sample.values]
    guesses = []
    for drawn in draws:
        features, folds = baseline.features(kept, drawn), [(drawn, own.indices("validation"))]
        chosen = linear_probe(features, own.labels, folds, drawn, own.indices("test"), SCORES[sample.score])
        guesses.append(chosen.predicted)
    return Side(guesses)


def fitted(
    sample: Sample, encoder: Encoder, drawn: np.ndarray, seed: int, rate: float, decay: float, updates: int
) -> tuple[float, Classifier]:
    """The best epoch's validation score, and its task."""
    task = Classifier(encoder, label="label", inputs=[sample.stream])
    task.metrics = {sample.score: task.metrics[sample.score]}  # intervals of the others would take their time
    result = task.fit(
        sample.rows(drawn),
        sample.rows(sample.labelled.indices("validation")),
        strategy=component(Strategy, "full", learning_rate=rate, layer_decay=decay),
        metric=sample.score,
        batch_size=BATCH,
        epochs=-(-updates // -(-len(drawn) // BATCH)),
        seed=seed,
    )
    return result.metrics[sample.score].value, task


def finetuned(
    sample: Sample, encoder: Encoder, draws: Sequence[np.ndarray], arguments: argparse.Namespace, console: Console
) -> Side:
    """The guesses with the settings that the validation split prefers."""

    def fits(rate: float, decay: float, first: int, stop: int) -> tuple[list[float], list[Classifier]]:
        found = [fitted(sample, encoder, draws[n], n, rate, decay, arguments.updates) for n in range(first, stop)]
        scores = ", ".join(f"{score:.3f}" for score, _ in found)
        side = "from scratch" if encoder.step is None else "pretrained"
        console.print(f"{sample.stream}, {side}, {rate:g} x {decay:g}: validation {scores}", highlight=False)
        return [score for score, _ in found], [task for _, task in found]

    search = min(arguments.search, len(draws))
    every = {pair: fits(*pair, 0, search) for pair in product(arguments.rates, arguments.decays)}
    rate, decay = max(every, key=lambda pair: float(np.mean(every[pair][0])))
    tasks = every[rate, decay][1] + (fits(rate, decay, search, len(draws))[1] if search < len(draws) else [])
    known = sample.labelled.classes
    asked = [{sample.stream: sample.values[n]} for n in sample.labelled.indices("test")]
    guesses = [np.array([known.index(name) for name in task.predict(asked)]) for task in tasks]
    return Side(guesses, f"{rate:g} x {decay:g}")


def row_of(sample: Sample, encoders: dict[str, Encoder], arguments: argparse.Namespace, console: Console) -> list[str]:
    """Cells of the table."""
    own, test = sample.labelled, sample.labelled.indices("test")
    draws = [draws_of(own, arguments.share, 1, seed)[0].rows for seed in range(arguments.seeds)]
    sides = {name: finetuned(sample, encoder, draws, arguments, console) for name, encoder in encoders.items()}
    sides["classical"] = classical(sample, draws)
    bootstrap = Bootstrap(own.labels[test], own.groups[test], 0)
    tables = {
        name: np.stack([bootstrap.scores(guess, sample.score) for guess in side.guesses])
        for name, side in sides.items()
    }
    gain = over_draws(tables["pretrained"], tables["from scratch"], 0)
    scores = [f"{table[:, 0].mean():.3f} ± {table[:, 0].std(ddof=1):.3f}" for table in tables.values()]
    told = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    chosen = ", ".join(side.chosen for side in sides.values() if side.chosen)
    return [f"{sample.stream} ({sample.score})", str(len(draws[0])), str(len(test)), *scores, told, chosen]


def main(given: Sequence[str] | None = None) -> None:
    """Print the table, and on how many modalities pretraining is ahead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="of a recipe with the five modalities")
    parser.add_argument("shards", type=Path, help="what 'mmpt samples' wrote")
    parser.add_argument("--share", type=float, default=0.1, help="of the training labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=200, help=f"at least, of {BATCH} samples each")
    parser.add_argument("--validation", type=int, default=500, help="samples at most")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3], help="learning rates of the head")
    parser.add_argument("--decays", type=float, nargs="+", default=[0.4, 1.0], help="of the rate, a layer down")
    parser.add_argument("--search", type=int, default=3, help="seeds whose validation scores choose rate and decay")
    parser.add_argument("--streams", nargs="+", default=list(DATA), choices=list(DATA))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    encoders = {
        name: encoder_of(arguments.run, untrained=name != "pretrained") for name in ("pretrained", "from scratch")
    }
    console = Console(width=180)
    table = Table(title=f"{arguments.share:.0%} of the training labels, {arguments.seeds} seeds")
    for heading in ("", "labels", "test", *encoders, "classical", "pretrained over scratch", "rate x decay"):
        table.add_column(heading, justify="left" if not heading else "right")
    ahead = 0
    for stream in arguments.streams:
        cells = row_of(read(stream, arguments.shards, arguments.validation), encoders, arguments, console)
        console.print(*cells, sep="  ")
        ahead += cells[6].startswith("+")
        table.add_row(*cells)
    console.print(table)
    console.print(f"pretrained is ahead of scratch on {ahead} of {len(arguments.streams)}")


if __name__ == "__main__":
    main()
