"""What was left out of a laboratory table, cell by cell: every one counted, the first of each column listed."""

from collections import Counter
from pathlib import Path
from typing import Any

from mmpt.data.shard import Part
from mmpt.errors import DataError

LISTED = 20  # cells of a column, so that one bad column leaves room for the others
NAMED = 5  # columns in one sentence
ADVICE = "declare columns of categories with --categorical NAME, name the lab columns with --columns, or mend the cells"


class CellReport:
    """Told of everything that is left out while a table is read.

    Args:
        path: the table.
    """

    def __init__(self, path: Path) -> None:
        self.part = Part()
        self.cells: Counter[str] = Counter()
        self.empty_columns: list[str] = []
        self.unit_conflicts: list[dict[str, Any]] = []
        self._path = path
        self._unreadable: list[str] = []

    def row(self, place: str, reason: str) -> None:
        """A row of the table."""
        self.part.reject(place, reason)

    def cell(self, column: str, place: str, reason: str) -> None:
        """A cell."""
        self.cells[column] += 1
        if self.cells[column] <= LISTED:
            self.part.reject(place, reason)
        else:
            self.part.rejections += 1

    def units(self, column: str, unit: str, kept: int, others: dict[str, int]) -> None:
        """Cells in other units than the column's, by unit."""
        total = sum(others.values())
        said = ", ".join(f"{count} cells in {other}" for other, count in others.items())
        self.part.reject(f"{self._path}: {column}", f"{said}, {kept} in {unit}; the {total} are left out")
        self.part.rejections += total - 1
        self.cells[column] += total
        self.unit_conflicts.append({"column": column, "unit": unit, "cells": kept, "others": others})

    def empty(self, column: str, elsewhere: int) -> None:
        """A column without a value in the training split."""
        self.empty_columns.append(column)
        why = f"all missing in the training split ({elsewhere} cells elsewhere); the column is left out"
        self.part.reject(f"{self._path}: {column}", why)

    def unreadable(self, column: str, bad: int, total: int, examples: list[str]) -> None:
        """A numeric column that mostly isn't."""
        shown = ", ".join(f"'{text:.40}'" for text in examples)
        self._unreadable.append(f"'{column}': {bad} of {total} cells of the training split, for example {shown}")

    def refuse_unreadable(self) -> None:
        """Raises DataError naming the columns that can't be lab columns as they are."""
        if self._unreadable:
            more = len(self._unreadable) - NAMED
            found = "; ".join(self._unreadable[:NAMED]) + (f"; and {more} more columns" if more > 0 else "")
            raise DataError(f"{self._path}: lab columns whose cells are mostly no numbers ({found}); {ADVICE}")
