"""A data set's samples as frames, one batch after the other; memory does not grow with the data set."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float

from mmpt.data.manifest import Manifest
from mmpt.data.reader import Reader
from mmpt.downstream.units.features import FrameFeatures
from mmpt.errors import DataError

AT_ONCE = 16  # samples


def frames_of(
    features: FrameFeatures, manifest: Manifest, rows: Sequence[int]
) -> Iterator[tuple[int, Float[np.ndarray, "N P"]]]:
    """Row and frames of each sample, in the order given; raises DataError that names the sample."""
    reader = Reader(manifest, [features.stream])
    try:
        remaining = iter(rows)
        while chunk := list(islice(remaining, AT_ONCE)):
            values = [reader.read(row)[features.stream] for row in chunk]
            yield from zip(chunk, _together(features, reader, chunk, values), strict=True)
    finally:
        reader.close()


def _together(
    features: FrameFeatures, reader: Reader, rows: Sequence[int], values: Sequence[Any]
) -> list[Float[np.ndarray, "_ P"]]:
    try:
        return features.of(values)
    except DataError:
        for row, value in zip(rows, values, strict=True):  # which of them it was
            try:
                features.of([value])
            except DataError as error:
                raise DataError(f"{reader.place(row)}: member '{features.stream}': {error}") from error
        raise


def rows_with(manifest: Manifest, stream: str, split: str | None) -> list[int]:
    """Rows that have the field, of a split or of all; raises DataError where there is none."""
    if stream not in manifest.fields:
        raise DataError(f"{manifest.folder}: no field '{stream}'; it has {', '.join(manifest.fields)}")
    rows = np.arange(len(manifest)) if split is None else manifest.split_rows(split)
    rows = rows[manifest.column(f"{stream}.offset")[rows] >= 0]
    if not len(rows):
        raise DataError(f"{manifest.folder}: no sample of {split or 'any split'} has a field '{stream}'")
    return [int(row) for row in rows]
