"""Labelled samples and every kind of features of them: what probes compare."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from mmpt.data.manifest import Manifest
from mmpt.data.reader import Reader
from mmpt.downstream.attentive import FrozenTokens
from mmpt.downstream.baselines import Baseline, baseline_of
from mmpt.downstream.encoder import CutWarning, Encoder
from mmpt.downstream.labelled import Labelled
from mmpt.errors import DataError
from mmpt.pools import TokenLatents, side_by_side

MAX_BAD_SHARE = 0.01
CHUNK = 256  # samples whose tokens are computed at once


class Described(NamedTuple):
    """Readable samples and every kind of features of them."""

    labelled: Labelled
    features: dict[str, Any]
    tokens: dict[str, FrozenTokens]  # of the encoders; empty where nobody asked
    notes: tuple[str, ...]


def describe(
    encoders: Mapping[str, Encoder],
    manifest: Manifest,
    streams: Sequence[str],
    labelled: Labelled,
    *,
    tokens: bool,
    console: Console | None,
) -> Described:
    """Features of each encoder and the classical ones of each stream; samples that can't be read are left out.

    With `tokens`, every valid token of the samples is kept in memory, too, as float32 of the trunk's width.
    """
    reader = Reader(manifest, list(streams))
    found = {name: baseline_of(manifest.fields[name]) for name in streams}
    baselines = {name: baseline for name, baseline in found.items() if baseline}
    kept, raw, bad = read_raw(reader, labelled.rows, baselines, console)
    labelled = labelled.only(kept)
    notes = [f"{labelled.unlabelled} samples without the label were left out"] if labelled.unlabelled else []
    notes += [f"{len(bad)} unreadable samples were left out, the first: {bad[0]}"] if bad else []
    features: dict[str, Any] = {}
    frozen: dict[str, FrozenTokens] = {}
    for name, encoder in encoders.items():
        samples = (reader.read(int(row)) for row in tracked(labelled.rows, f"{name} features", console))
        features[name], cut = encoded(encoder, samples)
        notes += [note for note in cut if note not in notes]
        if tokens:
            again = (reader.read(int(row)) for row in tracked(labelled.rows, f"{name} tokens", console))
            frozen[name] = tokens_of(encoder, again)
    reader.close()
    train = labelled.indices("train")
    for stream, baseline in baselines.items():
        features[f"{baseline.name} of {stream}"] = baseline.features(raw[stream], train)
    return Described(labelled, features, frozen, tuple(notes))


def read_raw(
    reader: Reader, rows: np.ndarray, baselines: Mapping[str, Baseline], console: Console | None
) -> tuple[np.ndarray, dict[str, list[Any]], list[str]]:
    """Which samples can be read, what the baselines need of them, and why the others can't."""
    kept = np.zeros(len(rows), dtype=bool)
    raw: dict[str, list[Any]] = {stream: [] for stream in baselines}
    bad: list[str] = []
    for number, row in enumerate(tracked(rows, "reading", console)):
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


def encoded(encoder: Encoder, samples: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, list[str]]:
    """Mean and standard deviation over a sample's tokens, and what the encoder had to say."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CutWarning)
        features = encoder.encode(samples, pool="mean_std").numpy()
    for warning in caught:
        if not issubclass(warning.category, CutWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return features, [str(warning.message) for warning in caught if issubclass(warning.category, CutWarning)]


def tokens_of(encoder: Encoder, samples: Iterable[Mapping[str, Any]]) -> FrozenTokens:
    """Every valid token of every sample."""
    left, found = iter(samples), []
    while chunk := list(islice(left, CHUNK)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CutWarning)  # `encoded` has said it
            streams = encoder.encode(chunk).streams
        every = side_by_side({name: TokenLatents(*own[:4]) for name, own in streams.items()})
        found += every.latents[every.valid].split(every.valid.sum(1).tolist())
    return FrozenTokens(tuple(found), encoder.device)


def tracked(values: Sequence[Any] | np.ndarray, what: str, console: Console | None) -> Iterable[Any]:
    """With a progress bar, where there is a terminal to show it on."""
    if console is None or not console.is_terminal:
        return values
    return track(values, what, total=len(values), console=console, transient=True)
