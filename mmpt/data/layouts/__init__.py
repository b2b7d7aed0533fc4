"""Layouts: how pieces of samples become rows of a batch, planned once from the manifest's lengths alone."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np


class Pieces(NamedTuple):
    """Stretches of samples, in the manifest's order."""

    sample: np.ndarray  # int64
    start: np.ndarray  # in the field's units
    stop: np.ndarray
    tokens: np.ndarray  # what the piece takes in a row


class Plan(NamedTuple):
    """Bins of rows of pieces. A bin is what a batch counts: every rank gets the same number of bins.

    Row r holds pieces[row_starts[r] : row_starts[r + 1]] of `order`; bin b holds the rows from bin_starts[b] to
    bin_starts[b + 1].
    """

    order: np.ndarray
    row_starts: np.ndarray
    bin_starts: np.ndarray
    row_size: int | None  # tokens of every row, where the layout fixes it

    @property
    def num_bins(self) -> int:
        """Bins of one epoch."""
        return len(self.bin_starts) - 1

    def rows(self, number: int) -> range:
        """Rows of a bin."""
        return range(self.bin_starts[number], self.bin_starts[number + 1])

    def pieces(self, row: int) -> np.ndarray:
        """Pieces of a row."""
        return self.order[self.row_starts[row] : self.row_starts[row + 1]]


class Layout(ABC):
    """A pure function of lengths and seed: ranks agree on it without talking, and an integer is a position in it."""

    @abstractmethod
    def plan(self, pieces: Pieces, seed: int) -> Plan:
        """Every piece in exactly one row. Raises ConfigError where a piece can't fit."""
