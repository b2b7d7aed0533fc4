"""Labelled samples from wherever they are: shards, lists of dicts, columns, data frames."""

import difflib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.labelled import label_field
from mmpt.errors import DataError

GROUP = "group"


class Examples(ABC):
    """Samples by number.

    `where` names them all for messages. By sample: `labels` as given, None where there is none; `groups`: samples of
    one are not independent, and by itself each is its own; `names`: keys, for tables of predictions; `label_facts`:
    what a data set says of a field of labels.
    """

    where: str
    labels: Sequence[Any]
    groups: Sequence[str]
    names: Sequence[str]
    label_facts: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int:
        """Samples."""

    @abstractmethod
    def place(self, number: int) -> str:
        """For messages."""

    @abstractmethod
    def has(self, number: int, name: str) -> bool:
        """Whether a sample has an input; looks at no values."""

    @abstractmethod
    def values(self, number: int) -> dict[str, Any]:
        """Raw values of the inputs that the sample has; raises DataError."""


class FieldLabels(Sequence[Any]):
    """Labels that are a field of their own, decoded whenever they are asked for: they may be large."""

    def __init__(self, manifest: Manifest, field: str, rows: np.ndarray) -> None:
        self.field, self.rows, self.reader = field, rows, Reader(manifest, [field])
        self.present = manifest.column(f"{field}.offset") >= 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        row = int(self.rows[number])
        return self.reader.read(row)[self.field] if self.present[row] else None


class ShardExamples(Examples):
    """The samples of one split that have any of the inputs."""

    def __init__(self, manifest: Manifest, inputs: Sequence[str], label: str | None, split: str | None) -> None:
        self.where = f"{manifest.folder}" + (f", split '{split}'" if split else "")
        there = [name for name in inputs if name in manifest.fields]
        if not there:
            raise DataError(
                f"{manifest.folder}: has the fields {', '.join(manifest.fields)}, none of {', '.join(inputs)}"
            )
        rows = np.arange(len(manifest)) if split is None else manifest.split_rows(split)
        self.there = {name: manifest.column(f"{name}.offset") >= 0 for name in there}
        has_any = np.any(list(self.there.values()), axis=0)
        self.rows = rows[has_any[rows]]
        if not len(self.rows):
            raise DataError(f"{self.where}: no sample has {' or '.join(there)}")
        self.manifest = manifest
        self.reader = Reader(manifest, there)
        self.labels = self._labels(label)
        self.groups = [group_name(group) for group in np.asarray(manifest.column(GROUP), dtype=object)[self.rows]]
        self.names = [str(self.reader.key[row]) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, number: int) -> str:
        return self.reader.place(int(self.rows[number]))

    def has(self, number: int, name: str) -> bool:
        return name in self.there and bool(self.there[name][self.rows[number]])

    def values(self, number: int) -> dict[str, Any]:
        return self.reader.read(int(self.rows[number]))

    def _labels(self, label: str | None) -> Sequence[Any]:
        if label is None:
            return [None] * len(self)
        if label in self.manifest.fields and self.manifest.fields[label].kind != "json":
            self.label_facts = self.manifest.fields[label].facts
            return FieldLabels(self.manifest, label, self.rows)
        field = label_field(self.manifest)
        reader = Reader(self.manifest, [field])
        present = self.manifest.column(f"{field}.offset") >= 0
        found = [reader.read(int(row))[field] if present[row] else {} for row in self.rows]
        reader.close()
        return _labels_of(found, label, self.where)


class RecordExamples(Examples):
    """Dicts with any of the inputs, the label, and perhaps a `group`."""

    def __init__(self, records: Sequence[Mapping[str, Any]], inputs: Sequence[str], label: str | None) -> None:
        self.where, self.inputs = "the samples given", tuple(inputs)
        self.records = [{name: value for name, value in record.items() if not _missing(value)} for record in records]
        if not self.records:
            raise DataError("expected samples, got none")
        for number, record in enumerate(self.records):
            if not any(name in record for name in inputs):
                there = ", ".join(map(str, record)) or "nothing"
                raise DataError(f"sample {number}: has {there}, and none of the inputs {', '.join(inputs)}")
        count = len(self.records)
        self.labels = [None] * count if label is None else _labels_of(self.records, label, self.where)
        self.groups = [group_name(own.get(GROUP, self.place(number))) for number, own in enumerate(self.records)]
        self.names = [str(number) for number in range(count)]

    def __len__(self) -> int:
        return len(self.records)

    def place(self, number: int) -> str:
        return f"sample {number}"

    def has(self, number: int, name: str) -> bool:
        return name in self.records[number]

    def values(self, number: int) -> dict[str, Any]:
        return {name: value for name, value in self.records[number].items() if name in self.inputs}


def examples_of(
    data: Any,
    inputs: Sequence[str],
    *,
    label: str | None,
    split: str,
    entries: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Examples:
    """Samples of any of the kinds; `split` is what a bare folder means, `entries` what a table may have as columns."""
    if isinstance(data, (str, Path)):
        manifest, named = _data_set(Path(data))
        return ShardExamples(manifest, inputs, label, named or split)
    records = records_of(data)
    if records is not None:
        return RecordExamples(_gathered(records, entries), inputs, label)
    kind = type(data).__name__
    raise DataError(f"expected a folder, a list of dicts, a dict of columns or a DataFrame, got {kind}")


def records_of(data: Any) -> Sequence[Mapping[str, Any]] | None:
    """A list of dicts from a list of them, a dict of columns or a DataFrame; None of anything else."""
    if hasattr(data, "to_dict") and hasattr(data, "columns"):
        return data.to_dict("records")
    if isinstance(data, Mapping):
        return _rows(data)
    if isinstance(data, Sequence) and all(isinstance(record, Mapping) for record in data):
        return data
    return None


def _gathered(
    records: Sequence[Mapping[str, Any]], entries: Mapping[str, Sequence[str]]
) -> Sequence[Mapping[str, Any]]:
    """An input that no record has by name is the dict of its entries; None of a record without any of them."""
    for name, own in entries.items():
        if any(name in record for record in records):
            continue
        whole = [
            {entry: record[entry] for entry in own if not _missing(record.get(entry))} or None for record in records
        ]
        if any(whole):
            records = [{**record, name: found} for record, found in zip(records, whole, strict=True)]
    return records


def _data_set(path: Path) -> tuple[Manifest, str | None]:
    """A folder, or a folder and the name of a split, of which a beginning is enough: val for validation."""
    if not (path / "manifest.json").exists() and (path.parent / "manifest.json").exists():
        manifest = load_manifest(path.parent)
        splits = sorted(set(manifest.column("split")))
        meant = [own for own in splits if own.startswith(path.name)]
        if path.name not in splits and len(meant) == 1:
            return manifest, meant[0]
        if path.name not in splits:
            near = difflib.get_close_matches(path.name, splits, n=1)
            advice = f"; did you mean '{near[0]}'?" if near else ""
            raise DataError(f"{path.parent}: has no split '{path.name}', but {', '.join(splits)}{advice}")
        return manifest, path.name
    return load_manifest(path), None


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    for name, values in columns.items():
        is_column = hasattr(values, "__len__") and hasattr(values, "__iter__")
        if not is_column or isinstance(values, (str, bytes, bytearray, Mapping)):
            raise DataError(
                f"'{name}': expected a column, one value a sample, got a {type(values).__name__}; a sample alone is a "
                "list of one dict"
            )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"columns of different lengths: {told}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def group_name(group: Any) -> str:
    """The same for 1, 1.0 and '1.0': a table turns whole numbers into floats where one is missing."""
    name = str(group)
    return name.split(".")[0] if re.fullmatch(r"-?\d+\.0+", name) else name


def _missing(value: Any) -> bool:
    """None, NaN, or pandas' NA or NaT: what tables hold where there is nothing."""
    is_nan = isinstance(value, (float, np.floating)) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _labels_of(records: Sequence[Mapping[str, Any]], label: str, where: str) -> list[Any]:
    found = [record.get(label) for record in records]
    if all(value is None for value in found):
        keys = sorted({str(key) for record in records for key in record})
        near = difflib.get_close_matches(label, keys, n=1)
        advice = f"did you mean '{near[0]}'? " if near else ""
        raise DataError(f"{where}: no sample has a label '{label}'; {advice}there are {', '.join(keys) or 'none'}")
    return found
