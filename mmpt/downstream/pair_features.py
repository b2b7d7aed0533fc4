"""Pairs of two streams and every kind of features of their halves."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from mmpt.data.manifest import Manifest
from mmpt.data.reader import Reader
from mmpt.downstream.baselines import baseline_of
from mmpt.downstream.described import encoded, read_raw, tracked
from mmpt.downstream.encoder import Encoder
from mmpt.downstream.retrieval import features_of
from mmpt.errors import DataError

TERMS = 256  # numbers that term weights are shortened to, by latent semantic analysis
PAIRS = {"train": 20_000, "test": 2_000}  # at most, of each split


class Pairs(NamedTuple):
    """Pairs of both splits and all their features."""

    purpose: np.ndarray
    groups: np.ndarray
    features: dict[str, dict[str, np.ndarray]]  # kind -> stream -> one row a pair
    direct: dict[str, np.ndarray]  # of the run as it is searched without a map, test pairs alone
    values: dict[str, list[Any]]  # what makes test halves the same: a text, or None
    notes: tuple[str, ...]

    def rows(self, purpose: str) -> np.ndarray:
        """Places of a split's pairs."""
        return np.flatnonzero(self.purpose == purpose)


def pair_features(
    encoders: Mapping[str, Encoder],
    manifest: Manifest,
    streams: tuple[str, str],
    splits: tuple[str, str],
    seed: int,
    console: Console | None,
) -> Pairs:
    """Features of both halves of every pair that can be read; raises DataError for too few or too many unreadable."""
    rows, purpose = _chosen(manifest, streams, splits, seed)
    reader = Reader(manifest, list(streams))
    baselines = {name: own for name in streams if (own := baseline_of(manifest.fields[name]))}
    kept, raw, bad = read_raw(reader, rows, baselines, console)
    rows, purpose = rows[kept], purpose[kept]
    notes = [f"{len(bad)} unreadable samples were left out, the first: {bad[0]}"] if bad else []
    features: dict[str, dict[str, np.ndarray]] = {}
    for kind, encoder in encoders.items():
        features[kind] = {}
        for name in streams:
            one = Reader(manifest, [name])
            samples = (one.read(int(row)) for row in tracked(rows, f"{kind} features of {name}", console))
            features[kind][name], cut = encoded(encoder, samples)
            notes += [note for note in cut if note not in notes]
            one.close()
    train, test = (np.flatnonzero(purpose == name) for name in PAIRS)
    if len(baselines) == 2:
        kind = ", ".join(f"{own.name} of {name}" for name, own in baselines.items())
        made = {name: _dense(own.features(raw[name], train), train, seed) for name, own in baselines.items()}
        features[kind] = made
    samples = [reader.read(int(row)) for row in rows[test]]
    reader.close()
    describe, _ = features_of(encoders["pretrained"], streams)
    direct = {name: describe(name, [sample[name] for sample in samples]) for name in streams}
    values = {name: [s[name] if isinstance(s[name], str) else None for s in samples] for name in streams}
    groups = np.asarray(manifest.column("group"), dtype=object)[rows]
    return Pairs(purpose, groups, features, direct, values, tuple(notes))


def _chosen(
    manifest: Manifest, streams: tuple[str, str], splits: tuple[str, str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pairs, drawn where there are more than are used, and what each is for."""
    both = np.all([manifest.column(f"{name}.offset") >= 0 for name in streams], axis=0)
    parts = []
    for number, (purpose, split) in enumerate(zip(PAIRS, splits, strict=True)):
        own = manifest.split_rows(split)
        own = own[both[own]]
        if len(own) < 2:
            raise DataError(
                f"{manifest.folder}: split '{split}' has {len(own)} pairs of {' and '.join(streams)}; 2 at least"
            )
        if len(own) > PAIRS[purpose]:
            own = np.sort(np.random.default_rng([seed, number]).choice(own, PAIRS[purpose], replace=False))
        parts.append(own)
    rows = np.concatenate(parts)
    purpose = np.repeat(list(PAIRS), [len(part) for part in parts])
    return rows, purpose


def _dense(features: Any, train: np.ndarray, seed: int) -> np.ndarray:
    """Latent semantic analysis (Deerwester et al. 1990) of term weights; other features as they are."""
    if not sparse.issparse(features):
        return np.asarray(features)
    size = min(TERMS, features.shape[1] - 1, len(train) - 1)
    if size < 1:
        return features.toarray()
    return TruncatedSVD(size, random_state=seed).fit(features[train]).transform(features)
