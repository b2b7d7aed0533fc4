"""Rows of a laboratory table -> samples and the cells of every lab column, for the wide form and the long one."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmpt.data.builders.cell_report import CellReport
from mmpt.data.lab_table import Coded, LabTable, nearest
from mmpt.data.split import Shares, split_of
from mmpt.errors import DataError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Keys:
    """Names of the columns that are no labs; "" for one that the table lacks."""

    id: str = "patient"
    visit: str = "visit"
    group: str = "group"
    label: str = "label"
    note: str = "note"
    item: str = "item"
    value: str = "value"
    unit: str = "unit"
    time: str = "time"
    labels: tuple[str, ...] = ()

    def within(self, path: Path, names: Sequence[str]) -> "Keys":
        """Without those that the table lacks; raises DataError for one that was asked for."""
        nearest(path, self.labels, names, "column")
        if "label" in self.labels and self.label != "label":
            raise DataError(f"{path}: 'label' would be column 'label' and column '{self.label}' at once; name one")
        absent = {}
        for own in fields(self):
            name = getattr(self, own.name)
            if own.name != "labels" and name not in names:
                nearest(path, () if name == own.default else (name,), names, "column")
                absent[own.name] = ""
        return replace(self, **absent)

    def of_sample(self) -> list[str]:
        """The columns that say something of a whole sample."""
        return _present(self.id, self.visit, self.group, self.label, self.note, *self.labels)

    def of_cell(self, aggregate: str) -> list[str]:
        """The columns of the long form; a mean needs no time."""
        return _present(self.item, self.value, self.unit, "" if aggregate == "mean" else self.time)


@dataclass(frozen=True)
class Samples:
    """What stands beside the cells of every sample.

    Args:
        table: the rows.
        keys: which columns say it.
        sample: of every row, -1 for a row that is left out.
        first: of every sample, its first row.
        columns: by name, one value a sample.
        damage: why a sample can't be used.
    """

    table: LabTable
    keys: Keys
    sample: np.ndarray
    first: np.ndarray
    columns: dict[str, Coded] = field(default_factory=dict)
    damage: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.first)

    def text(self, name: str, number: int) -> str | None:
        """What a column says of a sample."""
        column = self.columns.get(name)
        return None if column is None or column.code[number] < 0 else column.texts[column.code[number]]

    def place(self, number: int) -> str:
        """The sample, for people."""
        row, many = self.table.place(int(self.first[number])), len(self.sample) != len(self.first)
        named = [f"{name} {self.text(name, number)}" for name in (self.keys.id, self.keys.visit) if many and name]
        return ", ".join([row, *named])

    def group(self, number: int) -> str:
        """What keeps samples in one split."""
        named = (self.text(name, number) for name in (self.keys.group, self.keys.id) if name)
        return next((text for text in named if text), f"row {self.table.numbers[self.first[number]]}")

    def labels(self, number: int) -> dict[str, str]:
        """Who it is, the label, and the other columns that were asked for; without what is missing."""
        named = {name: name for name in _present(self.keys.id, self.keys.visit, *self.keys.labels)}
        if self.keys.label:
            named["label"] = self.keys.label
        found = {as_name: self.text(name, number) for as_name, name in named.items()}
        return {name: text for name, text in found.items() if text is not None}

    def training(self, shares: Shares) -> np.ndarray:
        """Which samples are in the training split."""
        inside = (
            number not in self.damage and split_of(self.group(number), shares) == "train" for number in range(len(self))
        )
        return np.fromiter(inside, dtype=bool, count=len(self))


class Entries(NamedTuple):
    """The cells of one lab column that are not empty, in the table's order.

    Args:
        name: of the column.
        texts: what cells say.
        code: of every cell, an index into texts.
        row: of every cell, index into the table.
        sample: whose cell it is.
        unit: of every cell, -1 where none is given; None in the wide form.
        time: of every cell; None where the table's order counts.
    """

    name: str
    texts: list[str]
    code: np.ndarray
    row: np.ndarray
    sample: np.ndarray
    unit: Coded | None = None
    time: np.ndarray | None = None

    def select(self, kept: np.ndarray) -> "Entries":
        """Some of the cells."""
        return self._replace(
            code=self.code[kept],
            row=self.row[kept],
            sample=self.sample[kept],
            unit=self.unit._replace(code=self.unit.code[kept]) if self.unit else None,
            time=None if self.time is None else self.time[kept],
        )


def read_samples(table: LabTable, keys: Keys, report: CellReport, *, long: bool) -> Samples:
    """Wide: a row is a sample. Long: rows of the same id and visit are one, and must agree on what they say of it."""
    sample = _numbers(table, keys, report) if long else np.arange(len(table))
    inside = np.flatnonzero(sample >= 0)
    first = inside[np.unique(sample[inside], return_index=True)[1]]
    samples = Samples(table, keys, sample, first)
    for name in keys.of_sample():
        column = table.coded(name)
        rows = inside[column.code[inside] >= 0]
        low, high = np.full(len(first), len(column.texts)), np.full(len(first), -1)
        np.minimum.at(low, sample[rows], column.code[rows])
        np.maximum.at(high, sample[rows], column.code[rows])
        samples.columns[name] = Coded(column.texts, np.where(high < 0, -1, low))
        for number in np.flatnonzero((high >= 0) & (low < high)).tolist():
            one, other = column.texts[low[number]], column.texts[high[number]]
            samples.damage.setdefault(number, f"its rows disagree on '{name}': '{one:.40}' and '{other:.40}'")
    return samples


def wide_entries(table: LabTable, names: Sequence[str]) -> Iterator[Entries]:
    """A column of the table is a lab column."""
    for name in names:
        texts, code = table.coded(name)
        row = np.flatnonzero(code >= 0)
        yield Entries(name, texts, code[row], row, row)


def long_entries(
    samples: Samples, item: Coded, names: Sequence[str], aggregate: str, report: CellReport
) -> Iterator[Entries]:
    """An item of the table is a lab column."""
    table, keys = samples.table, samples.keys
    value = table.coded(keys.value)
    told = (samples.sample >= 0) & (value.code >= 0)
    for row in np.flatnonzero(told & (item.code < 0)).tolist():
        report.row(table.place(row), f"no '{keys.item}' in this row")
    units = table.coded(keys.unit) if keys.unit else None
    times = read_times(table.coded(keys.time)) if keys.time and aggregate != "mean" else None
    order = np.argsort(item.code, kind="stable")
    edges = np.searchsorted(item.code[order], np.arange(len(item.texts) + 1))
    for name in names:
        number = item.texts.index(name)
        row = order[edges[number] : edges[number + 1]]
        row = row[told[row]]
        unit = Coded(units.texts, units.code[row]) if units else None
        time = None if times is None else times[row]
        used, code = np.unique(value.code[row], return_inverse=True)
        texts = [value.texts[index] for index in used.tolist()]
        entries = Entries(name, texts, code, row, samples.sample[row], unit, time)
        yield entries if time is None else _timed(entries, time, samples, report)


def read_times(column: Coded) -> np.ndarray:
    """Numbers, or ISO dates as seconds since 1970 (without a zone: UTC); NaN for the rarer kind and the rest."""
    read = [_time(text) for text in column.texts]
    counts = np.bincount(column.code[column.code >= 0], minlength=len(read))
    dates = sum(int(count) * (1 if time[1] else -1) for count, time in zip(counts, read, strict=True) if time) > 0
    times = [time[0] if time and time[1] == dates else np.nan for time in read]
    return np.array([*times, np.nan])[column.code]


def _numbers(table: LabTable, keys: Keys, report: CellReport) -> np.ndarray:
    """Samples in the order of their first rows."""
    code = table.coded(keys.id).code
    left_out = code < 0
    for row in np.flatnonzero(left_out).tolist():
        report.row(table.place(row), f"no '{keys.id}' in this row")
    if keys.visit:
        visit = table.coded(keys.visit)
        code = code * (len(visit.texts) + 1) + visit.code + 1
    code = np.where(left_out, -1, code)
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    first = np.where(code[first] < 0, -1, first)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.where(left_out, -1, rank[inverse] - bool(left_out.any()))


def _timed(entries: Entries, time: np.ndarray, samples: Samples, report: CellReport) -> Entries:
    key, bad = samples.keys.time, np.isnan(time)
    for row in entries.row[bad].tolist():
        text = samples.table.columns.column(key)[row].as_py() or ""
        place = samples.table.place(row, entries.name)
        report.cell(entries.name, place, f"{key} '{text:.40}' can't be put in order with the others")
    return entries.select(~bad)


def _time(text: str) -> tuple[float, bool] | None:
    """The time and whether it is a date."""
    if NUMBER.fullmatch(text):
        return float(text), False
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), True


def _present(*names: str) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))
