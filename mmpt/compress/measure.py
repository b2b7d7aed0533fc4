"""Size, speed and quality of two encoders side by side."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mmpt.build import count_parameters
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.classify import SCORES, Bootstrap, grouped_folds, linear_probe
from mmpt.downstream.encoder import Encoder
from mmpt.downstream.labelled import VALIDATION, Labelled, find_labelled
from mmpt.downstream.result import Interval
from mmpt.errors import DataError
from mmpt.tokens import Batch

ROUNDS = 30  # of timing


class Quality(NamedTuple):
    """What linear probes of the features find of a label, by encoder, on the test split."""

    label: str
    score: str
    scores: dict[str, Interval]
    gain: Interval  # of the second over the first, over the same resampled groups
    trivial: float  # of the training labels' commonest class, whatever the sample


def labelled_of(
    data: Path, label: str, streams: Sequence[str], max_samples: int | None, seed: int
) -> tuple[Manifest, Labelled]:
    """The samples that quality is told by, checked before anything is made smaller."""
    manifest = load_manifest(data)
    splits = ("train", "test")
    found = find_labelled(manifest, label, streams, splits, max_samples=max_samples, skip_unlabelled=True, seed=seed)
    return manifest, found


def quality(
    encoders: dict[str, Encoder], manifest: Manifest, labelled: Labelled, label: str, streams: Sequence[str], *,
    score: str, seed: int,
) -> Quality:  # fmt: skip
    """A probe as `mmpt probe` makes it, of both encoders."""
    reader = Reader(manifest, list(streams))
    train, test = labelled.indices("train"), labelled.indices("test")
    validation = labelled.indices(VALIDATION)
    labels, groups = labelled.labels, labelled.groups
    folds = [(train, validation)] if len(validation) else grouped_folds(train, labels[train], groups[train], seed)
    if not folds:
        raise DataError(f"{manifest.folder}: the training split is too small to choose a probe's strength by")
    bootstrap, said = Bootstrap(labels[test], groups[test], seed), {}
    with threadpool_limits(limits=1):
        for name, encoder in encoders.items():
            samples = (reader.read(int(row)) for row in labelled.rows)
            features = encoder.encode(samples, pool="mean_std").numpy()
            said[name] = linear_probe(features, labels, folds, train, test, SCORES[score]).predicted
    reader.close()
    first, second = said.values()
    gain = bootstrap.difference(second, first, score)
    commonest = np.full(len(test), np.bincount(labels[train]).argmax())
    scores = {name: bootstrap.interval(own, score) for name, own in said.items()}
    return Quality(label, score, scores, gain, float(SCORES[score](labels[test], commonest)))


@torch.no_grad()
def speed(encoders: Sequence[Encoder], batch: Batch) -> list[float]:
    """Seconds a batch takes each of them, the fastest of several rounds in turn: only their ratio means much.

    On a CPU it is the process's own time, which other work on the machine does not lengthen.
    """
    on_cpu = all(encoder.device.type == "cpu" for encoder in encoders)
    clock = time.process_time if on_cpu else time.perf_counter
    times = np.full((ROUNDS, len(encoders)), np.inf)
    for number in range(ROUNDS):
        order = range(len(encoders)) if number % 2 else reversed(range(len(encoders)))
        for place in order:
            began = clock()
            encoders[place].backbone(batch)
            if not on_cpu:
                torch.accelerator.synchronize()
            times[number, place] = clock() - began
    return times.min(0).tolist()


def parameters(encoder: Encoder) -> int:
    """Of the backbone."""
    return count_parameters([encoder.backbone])


def plain(quality: Quality | None) -> dict[str, Any]:
    """As JSON holds it."""
    if quality is None:
        return {}
    scores = {name: asdict(own) for name, own in quality.scores.items()}
    return {
        "label": quality.label,
        "score": quality.score,
        "scores": scores,
        "gain": asdict(quality.gain),
        "trivial": quality.trivial,
    }
