"""`mmpt probe`: what frozen features know of a label, beside the untrained encoder and classical baselines."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from threadpoolctl import threadpool_limits

from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.baselines import Baseline, baseline_of
from mmpt.downstream.classify import SCORES, Bootstrap, Fold, grouped_folds, linear_probe, neighbour_probe
from mmpt.downstream.encoder import CutWarning, Encoder, load
from mmpt.downstream.fields import check_fields
from mmpt.downstream.labelled import VALIDATION, Labelled, find_labelled
from mmpt.downstream.result import Interval, ProbeResult, ProbeRow
from mmpt.errors import DataError

MAX_BAD_SHARE = 0.01


def probe(
    run: str | Path,
    data: str | Path,
    *,
    label: str,
    streams: Sequence[str] | None = None,
    splits: tuple[str, str] = ("train", "test"),
    score: str = "accuracy",
    untrained: bool = True,
    max_samples: int | None = None,
    skip_unlabelled: bool = False,
    step: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> ProbeResult:
    """Linear and kNN probe of a run's frozen features; also written to `RUN/probe-DATA-LABEL[-STREAMS].json`.

    Strength and k are chosen on the split `validation`, or by cross-validation over groups of the training split where
    there is none; the test split is looked at once.

    Args:
        run: the run folder.
        data: a data set with labels: its JSON member holds them by key.
        label: the key.
        streams: to make features from; by default all of the run's that the data set has, in one sequence.
        splits: to fit on, and to be judged by.
        score: by which strength and k are chosen and the gain is told: `accuracy`, `balanced` (mean over classes) or
            `macro_f1`, for classes of very different sizes.
        untrained: whether to probe the encoder as it was before training, too.
        max_samples: of every split, drawn by `seed`; None takes all.
        skip_unlabelled: leave samples without the label out, and say so, instead of refusing.
        step: of the checkpoint; the newest by default.
        seed: of the bootstrap, cross-validation and `max_samples`.
        console: shows progress; None is quiet.

    Raises:
        DataError: no such label, one missing from some samples, groups in two splits, or too many unreadable samples.
        CheckpointError: not a run folder, or no checkpoint of that step.
    """
    if score not in SCORES:
        raise DataError(f"score: expected one of {', '.join(SCORES)}, got '{score}'")
    encoders = {"pretrained": load(run, step=step)}
    if untrained:
        encoders["untrained"] = load(run, untrained=True)
    manifest = load_manifest(data)
    used = _streams(encoders["pretrained"], manifest, streams)
    labelled = find_labelled(
        manifest, label, used, splits, max_samples=max_samples, skip_unlabelled=skip_unlabelled, seed=seed
    )
    described = _describe(encoders, manifest, used, labelled, console)
    with threadpool_limits(limits=1):  # the fits are small: more threads only wait for one another
        rows, gain, chosen_by = _judge(described, score, seed, console)
    samples, groups = _sizes(described.labelled)
    result = ProbeResult(
        run=str(run),
        step=encoders["pretrained"].step,
        data=str(data),
        label=label,
        streams=used,
        classes=labelled.classes,
        samples=samples,
        groups=groups,
        rows=rows,
        score=score,
        gain=gain,
        chosen_by=chosen_by,
        notes=described.notes,
        seed=seed,
    )
    result.write(Path(run), narrowed=streams is not None)
    return result


def _streams(encoder: Encoder, manifest: Manifest, asked: Sequence[str] | None) -> tuple[str, ...]:
    fields = manifest.fields
    used = tuple(asked) if asked else tuple(name for name in encoder.modalities if name in fields)
    if not used:
        theirs, ours = ", ".join(fields), ", ".join(encoder.modalities)
        raise DataError(f"{manifest.folder}: has the fields {theirs}, and none of the run's streams {ours}")
    check_fields("the run", encoder.modalities, manifest, used)
    return used


class Described(NamedTuple):
    """Readable samples and every kind of features of them."""

    labelled: Labelled
    features: dict[str, Any]
    notes: tuple[str, ...]


def _describe(
    encoders: Mapping[str, Encoder],
    manifest: Manifest,
    streams: tuple[str, ...],
    labelled: Labelled,
    console: Console | None,
) -> Described:
    reader = Reader(manifest, list(streams))
    found = {name: baseline_of(manifest.fields[name]) for name in streams}
    baselines = {name: baseline for name, baseline in found.items() if baseline}
    kept, raw, bad = _read_raw(reader, labelled.rows, baselines, console)
    labelled = labelled.only(kept)
    notes = [f"{labelled.unlabelled} samples without the label were left out"] if labelled.unlabelled else []
    notes += [f"{len(bad)} unreadable samples were left out, the first: {bad[0]}"] if bad else []
    features: dict[str, Any] = {}
    for name, encoder in encoders.items():
        samples = (reader.read(int(row)) for row in _tracked(labelled.rows, f"{name} features", console))
        features[name], cut = _encoded(encoder, samples)
        notes += [note for note in cut if note not in notes]
    reader.close()
    train = labelled.indices("train")
    for stream, baseline in baselines.items():
        features[f"{baseline.name} of {stream}"] = baseline.features(raw[stream], train)
    return Described(labelled, features, tuple(notes))


def _read_raw(
    reader: Reader, rows: np.ndarray, baselines: Mapping[str, Baseline], console: Console | None
) -> tuple[np.ndarray, dict[str, list[Any]], list[str]]:
    """Which samples can be read, what the baselines need of them, and why the others can't."""
    kept = np.zeros(len(rows), dtype=bool)
    raw: dict[str, list[Any]] = {stream: [] for stream in baselines}
    bad: list[str] = []
    for number, row in enumerate(_tracked(rows, "reading", console)):
        try:
            sample = reader.read(int(row))
        except DataError as error:
            bad.append(str(error))
            continue
        kept[number] = True
        for stream, baseline in baselines.items():
            raw[stream].append(baseline.read(sample.get(stream)))
    if len(bad) > MAX_BAD_SHARE * len(rows):
        raise DataError(f"{len(bad)} of {len(rows)} samples can't be read; the first: {bad[0]}")
    return kept, raw, bad


def _encoded(encoder: Encoder, samples: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, list[str]]:
    """Features, and what the encoder had to say."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CutWarning)
        features = encoder.encode(samples, pool="mean_std").numpy()
    for warning in caught:
        if not issubclass(warning.category, CutWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return features, [str(warning.message) for warning in caught if issubclass(warning.category, CutWarning)]


def _judge(
    described: Described, score: str, seed: int, console: Console | None
) -> tuple[tuple[ProbeRow, ...], Interval | None, str]:
    """Rows of the table, the gain over the untrained encoder, and what the settings were chosen by."""
    labelled = described.labelled
    labels, train, test = labelled.labels, labelled.indices("train"), labelled.indices("test")
    folds, chosen_by = _folds(labelled, seed)
    bootstrap = Bootstrap(labels[test], labelled.groups[test], seed)
    rows, guesses = [], {}
    for name in _tracked(list(described.features), "probing", console):
        features = described.features[name]
        linear = linear_probe(features, labels, folds, train, test, SCORES[score])
        near = neighbour_probe(features, labels, folds, train, test, SCORES[score])
        guesses[name] = linear.predicted
        found = [bootstrap.interval(probed.predicted, kind) for probed in (linear, near) for kind in SCORES]
        rows.append(ProbeRow(name, *found, strength=linear.setting, neighbours=int(near.setting)))
    majority = np.full(len(test), np.bincount(labels[train]).argmax())
    accuracy, balanced, macro_f1 = (bootstrap.interval(majority, kind) for kind in SCORES)
    rows.append(ProbeRow("commonest class", accuracy, balanced, macro_f1))
    untrained = guesses.get("untrained")
    gain = None if untrained is None else bootstrap.difference(guesses["pretrained"], untrained, score)
    return tuple(rows), gain, chosen_by


def _sizes(labelled: Labelled) -> tuple[dict[str, int], dict[str, int]]:
    """Samples and groups by purpose."""
    own = {part: labelled.indices(part) for part in ("train", VALIDATION, "test")}
    used = {part: indices for part, indices in own.items() if len(indices)}
    groups = {part: len(np.unique(labelled.groups[indices])) for part, indices in used.items()}
    return {part: len(indices) for part, indices in used.items()}, groups


def _folds(labelled: Labelled, seed: int) -> tuple[list[Fold], str]:
    train, validation = labelled.indices("train"), labelled.indices(VALIDATION)
    if len(validation):
        return [(train, validation)], "the validation split"
    folds = grouped_folds(train, labelled.labels[train], labelled.groups[train], seed)
    if not folds:
        raise DataError("the training split is too small to cross-validate over groups; add a split 'validation'")
    return folds, "cross-validation over groups of the training split"


def _tracked(values: Sequence[Any] | np.ndarray, what: str, console: Console | None) -> Iterable[Any]:
    """With a progress bar, where there is a terminal to show it on."""
    if console is None or not console.is_terminal:
        return values
    return track(values, what, total=len(values), console=console, transient=True)
