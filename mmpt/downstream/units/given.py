"""What units are held against: a label of each sample, or one of each frame."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from mmpt.data.manifest import Manifest
from mmpt.data.reader import Reader
from mmpt.data.unit_labels import tolerance
from mmpt.errors import DataError


class GivenLabels(ABC):
    """Numbers of classes, of the samples of a data set."""

    @abstractmethod
    def of(self, row: int, count: int, rate: Fraction | None) -> Int[np.ndarray, " T"] | None:
        """Of a sample's `count` frames at `rate`; -1 is not known, None: the sample has no label."""


class SampleLabels(GivenLabels):
    """A label of the whole sample, in a JSON field, holds for all of its frames."""

    def __init__(self, found: dict[int, str]) -> None:
        numbers = {label: number for number, label in enumerate(sorted(set(found.values())))}
        self.found = {row: numbers[label] for row, label in found.items()}

    def of(self, row: int, count: int, rate: Fraction | None) -> Int[np.ndarray, " T"] | None:
        """As often as there are frames."""
        return np.full(count, self.found[row]) if row in self.found else None


class FrameLabels(GivenLabels):
    """An array field of whole numbers a sample, at the rate that the field's facts state; below 0 is not known.

    A frame takes the label in force where it begins.
    """

    def __init__(self, manifest: Manifest, name: str) -> None:
        rate = manifest.fields[name].facts.get("rate")
        try:
            self.rate = None if rate is None else Fraction(rate)
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{manifest.folder}: field '{name}' states a rate of {rate!r}, expected a number, as 100 or '50/3'"
            ) from error
        self.name, self.reader = name, Reader(manifest, [name])
        self.present = manifest.column(f"{name}.offset") >= 0

    def of(self, row: int, count: int, rate: Fraction | None) -> Int[np.ndarray, " T"] | None:
        """Raises DataError for labels of another length than the sample's, or of another kind than whole numbers."""
        if not self.present[row]:
            return None
        labels, place = self.reader.read(row)[self.name], f"{self.reader.place(row)}: member '{self.name}'"
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
            raise DataError(f"{place}: expected a row of whole numbers as labels of frames")
        if (rate is None) != (self.rate is None):
            ours, theirs = ("one a token" if r is None else f"{float(r):g} a second" for r in (rate, self.rate))
            raise DataError(
                f"{place}: units are {ours} and these labels {theirs}; both have to have a rate, or neither"
            )
        if rate is None or self.rate is None:
            if len(labels) != count:
                raise DataError(f"{place}: {len(labels)} labels for {count} tokens")
            return labels.astype(np.int64)
        seconds, given = Fraction(count) / rate, Fraction(len(labels)) / self.rate
        if abs(seconds - given) > tolerance(min(rate, self.rate)):
            raise DataError(f"{place}: labels for {float(given):.2f} s and units for {float(seconds):.2f} s")
        ratio = self.rate / rate
        numbers = np.arange(count, dtype=np.int64) * ratio.numerator // ratio.denominator
        return labels[numbers.clip(max=len(labels) - 1)].astype(np.int64)


def open_given(manifest: Manifest, rows: Sequence[int], name: str) -> GivenLabels:
    """Labels by the name of an array field or of an entry of the JSON field; raises DataError where there are none."""
    if name in manifest.fields and manifest.fields[name].kind == "array":
        if not (manifest.column(f"{name}.offset")[list(rows)] >= 0).any():
            raise DataError(f"{manifest.folder}: none of these samples has a field '{name}'")
        return FrameLabels(manifest, name)
    fields = [field for field, own in manifest.fields.items() if own.kind == "json"]
    if not fields:
        raise DataError(
            f"{manifest.folder}: has no array field '{name}' with labels of frames, and no JSON field that a label "
            "of samples could stand in"
        )
    reader, found = Reader(manifest, fields[:1]), {}
    present = manifest.column(f"{fields[0]}.offset") >= 0
    for row in rows:
        value = reader.read(row)[fields[0]].get(name) if present[row] else None
        if value is not None:
            found[row] = str(value)
    reader.close()
    if not found:
        raise DataError(f"{manifest.folder}: no sample has a label '{name}'")
    return SampleLabels(found)
