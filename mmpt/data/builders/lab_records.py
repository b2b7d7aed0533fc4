"""Samples and lab columns -> the records that shards are made of."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmpt.data.builders.cell_report import CellReport
from mmpt.data.builders.cells import LabColumn
from mmpt.data.builders.lab_rows import Samples

BYTES = 200  # of a sample, beside its cells and note


class LabRecord(NamedTuple):
    """One sample; cells are (column, value) pairs."""

    place: str
    size: int
    group: str
    cells: np.ndarray
    note: str | None
    labels: dict[str, str]
    damage: str = ""


class LabRecords:
    """The samples of a table, one by one.

    Args:
        samples: what stands beside the cells.
        columns: the lab columns.
        training: which samples are in the training split.
    """

    def __init__(self, samples: Samples, columns: Sequence[LabColumn], training: np.ndarray) -> None:
        self.samples, self.columns = samples, columns
        sample = np.concatenate([column.sample for column in columns])
        number = np.repeat(np.arange(len(columns)), [len(column.sample) for column in columns])
        order = np.lexsort((number, sample))
        cells = np.stack([number, np.concatenate([column.value for column in columns])], axis=1)
        self._cells = cells[order].astype(np.float64)
        self._edges = np.searchsorted(sample[order], np.arange(len(samples) + 1))
        observed = np.diff(self._edges) > 0
        noted = np.array([self._note(number) is not None for number in range(len(samples))])
        self.training = training & (observed | noted)
        self.noted = bool(noted.any())

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[LabRecord]:
        samples = self.samples
        for number in range(len(samples)):
            cells = self._cells[self._edges[number] : self._edges[number + 1]]
            note = self._note(number)
            damage = samples.damage.get(number, "" if len(cells) or note else "no lab value and no note in this row")
            size = BYTES + cells.nbytes + len(note or "")
            place, group = samples.place(number), samples.group(number)
            yield LabRecord(place, size, group, cells, note, samples.labels(number), damage)

    def _note(self, number: int) -> str | None:
        return None if number in self.samples.damage else self.samples.text(self.samples.keys.note, number)

    def statistics(self, report: CellReport) -> dict[str, Any]:
        """Of the columns in the training split, with the share of samples that have a value, and what was left out."""
        count = int(self.training.sum())
        return {
            "columns": [c.statistics | {"observed": c.statistics["count"] / count} for c in self.columns],
            "training_samples": count,
            "rows": len(self.samples.sample),
            "empty_columns": report.empty_columns,
            "unit_conflicts": report.unit_conflicts,
            "rejected_cells": dict(report.cells),
        }
