"""The labelled samples of a data set that a probe uses, checked before anything is encoded."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpt.data.manifest import Manifest
from mmpt.data.reader import Reader
from mmpt.errors import DataError

LABELS, VALIDATION = "labels", "validation"


@dataclass(frozen=True)
class Labelled:
    """Samples of the probe's splits, in the manifest's order; all arrays have one entry a sample.

    Args:
        rows: of the manifest.
        labels: numbers of `classes`.
        splits: `train`, `validation` or `test`: what a sample is for, whatever the data set calls it.
        groups: samples of one stay together.
        unlabelled: samples that were left out for want of a label.
    """

    rows: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...]
    unlabelled: int

    def only(self, kept: np.ndarray) -> "Labelled":
        """The samples for which `kept` is True."""
        rows, labels, splits, groups = (own[kept] for own in (self.rows, self.labels, self.splits, self.groups))
        return Labelled(rows, labels, splits, groups, self.classes, self.unlabelled)

    def indices(self, split: str) -> np.ndarray:
        """Places, in these arrays, of the samples of a split."""
        return np.flatnonzero(self.splits == split)


def find_labelled(
    manifest: Manifest,
    label: str,
    streams: Sequence[str],
    splits: tuple[str, str],
    *,
    max_samples: int | None,
    skip_unlabelled: bool,
    seed: int,
) -> Labelled:
    """Samples that have one of the streams and a label; raises DataError for whatever makes the probe meaningless."""
    field = label_field(manifest)
    has_stream = np.any([manifest.column(f"{stream}.offset") >= 0 for stream in streams], axis=0)
    parts = {"train": splits[0], "test": splits[1]}
    if VALIDATION not in splits and VALIDATION in set(manifest.column("split")):
        parts[VALIDATION] = VALIDATION
    purpose = np.full(len(manifest), "", dtype=object)
    for number, (part, name) in enumerate(parts.items()):
        rows = manifest.split_rows(name)
        rows = rows[has_stream[rows]]
        if not len(rows) and part != VALIDATION:
            raise DataError(f"{manifest.folder}: no sample of split '{name}' has {' or '.join(streams)}")
        if max_samples is not None and len(rows) > max_samples:
            rows = np.random.default_rng([seed, number]).choice(rows, max_samples, replace=False)
        purpose[rows] = part
    rows = np.flatnonzero(purpose != "")
    groups = np.asarray(manifest.column("group"), dtype=object)
    _refuse_straddling(manifest, groups[rows], purpose[rows])
    values, unlabelled = _read_labels(manifest, field, label, rows, skip_unlabelled=skip_unlabelled)
    kept = np.array([value is not None for value in values])
    rows, values = rows[kept], [value for value in values if value is not None]
    classes = tuple(sorted(set(values)))
    number_of = {name: number for number, name in enumerate(classes)}
    labels = np.array([number_of[value] for value in values])
    found = Labelled(rows, labels, purpose[rows], groups[rows], classes, unlabelled)
    _check_classes(manifest, label, found)
    return found


def label_field(manifest: Manifest) -> str:
    """The JSON field that labels are in; raises DataError where that is not clear."""
    found = [name for name, field in manifest.fields.items() if field.kind == "json"]
    if LABELS in found:
        return LABELS
    if len(found) == 1:
        return found[0]
    there = ", ".join(manifest.fields)
    raise DataError(f"{manifest.folder}: labels are read from a JSON field named '{LABELS}'; it has {there}")


def _refuse_straddling(manifest: Manifest, groups: np.ndarray, splits: np.ndarray) -> None:
    pairs = set(zip(groups, splits, strict=True))
    counts = Counter(group for group, _ in pairs)
    straddling = sorted(group for group, count in counts.items() if count > 1)
    if straddling:
        raise DataError(
            f"{manifest.folder}: {len(straddling)} groups are in more than one split ('{straddling[0]}' for one), "
            "so the score would be of samples seen in training; split the data set by group"
        )


def _read_labels(
    manifest: Manifest, field: str, label: str, rows: np.ndarray, *, skip_unlabelled: bool
) -> tuple[list[str | None], int]:
    reader = Reader(manifest, [field])
    present = manifest.column(f"{field}.offset") >= 0
    values: list[str | None] = []
    keys: Counter[str] = Counter()
    for row in rows:
        given = reader.read(int(row))[field] if present[row] else {}
        keys.update(list(given))
        values.append(_class_of(given.get(label), f"{reader.place(int(row))}: label '{label}'"))
    reader.close()
    missing = [row for row, value in zip(rows, values, strict=True) if value is None]
    if len(missing) == len(rows):
        near = difflib.get_close_matches(label, keys, n=1)
        advice = f"did you mean '{near[0]}'? " if near else ""
        there = ", ".join(key for key, _ in keys.most_common()) or "none at all"
        raise DataError(f"{manifest.folder}: no sample has a label '{label}'; {advice}there are {there}")
    if missing and not skip_unlabelled:
        raise DataError(
            f"{manifest.folder}: label '{label}' is missing from {len(missing)} of {len(rows)} samples, the first is "
            f"{reader.place(int(missing[0]))}; --skip-unlabelled (skip_unlabelled=True in Python) leaves them out"
        )
    return values, len(missing)


def _class_of(value: Any, place: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(value)
    raise DataError(f"{place}: expected the name or number of one class, got {value!r}")


def _check_classes(manifest: Manifest, label: str, found: Labelled) -> None:
    train, test = found.indices("train"), found.indices("test")
    if not len(train) or not len(test):
        raise DataError(f"{manifest.folder}: no labelled sample is left to {'test' if len(train) else 'train'} on")
    if len(np.unique(found.labels[train])) < 2:
        only = found.classes[found.labels[train[0]]]
        raise DataError(f"{manifest.folder}: label '{label}' is '{only}' in all {len(train)} training samples")
    if len(found.classes) > max(len(found.labels) / 2, 2):
        raise DataError(
            f"{manifest.folder}: label '{label}' has {len(found.classes)} values in {len(found.labels)} samples, "
            "which are no classes"
        )
