"""Missing cells of a laboratory table, as the pretrained model predicts them from the observed ones."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

from mmpt.downstream.columns import labs_stream
from mmpt.downstream.pretrained import Pretrained
from mmpt.encoders.labs import Labs
from mmpt.errors import DataError
from mmpt.objectives import Hidden, Prediction
from mmpt.objectives.corruption.replace import ReplaceCorruption
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.stream_objective import StreamObjective
from mmpt.objectives.targets.cells import CellsTarget
from mmpt.tokens import Batch, Content

Table = Any  # a list of dicts, a pandas DataFrame or an array


def impute(pretrained: Pretrained, table: Table, *, batch_size: int = 256) -> Table:
    """The table with its missing cells filled: numbers in the columns' units, categories by the likeliest.

    Observed cells stay as they are, and the table that is given stays as it is. A row of which nothing is observed gets
    what the model expects of anyone.

    Args:
        pretrained: a run with a stream of laboratory tables whose target is `cells`.
        table: a list of dicts, in which a missing cell is None, NaN or not there at all; a pandas DataFrame; or a float
            array with a column for each of the data set's, NaN where a cell is missing and categories by number. Of the
            first two the result has all of the data set's columns.
        batch_size: rows that go through the model at once.

    Raises:
        DataError: a run that can't impute, or a row that can't be read; gives its number, counted from 0.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    stream, labs = labs_stream(pretrained.modalities)
    part = _cells_objective(pretrained, stream)
    records = _records(table)
    known = _grid(labs, table) if records is None else _grid_of_records(labs, records)
    filled = known.copy()
    rows = np.flatnonzero(np.isnan(known).any(axis=1))
    with _nothing_kept(part):
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            filled[some] = _predict(pretrained, stream, labs, known[some], some)
    if records is None:
        return filled.astype(table.dtype)
    completed = [_completed(labs, *row) for row in zip(records, known, filled, strict=True)]
    return completed if isinstance(table, Sequence) else _completed_frame(labs, table, known, completed)


def _cells_objective(pretrained: Pretrained, stream: str) -> StreamObjective:
    if pretrained.step is None:
        raise DataError(f"{pretrained.run}: there is no checkpoint yet; train first, for fresh weights predict nothing")
    objective = pretrained.model.objective
    if isinstance(objective, MaskedPrediction) and isinstance(objective.part(stream).target, CellsTarget):
        return objective.part(stream)
    raise DataError(f"{pretrained.run}: imputation needs a run whose stream '{stream}' has the target 'cells'")


@contextmanager
def _nothing_kept(part: StreamObjective) -> Iterator[None]:
    """A missing cell has no value that a corruption could leave as it was, nor does a random one belong there."""
    corruption = part.corruption
    if not isinstance(corruption, ReplaceCorruption):
        yield
        return
    shares = corruption.keep, corruption.random
    corruption.keep = corruption.random = 0.0
    try:
        yield
    finally:
        corruption.keep, corruption.random = shares


# ---- a table in, a grid of numbers inside, a table out


def _records(table: Table) -> list[Mapping[Any, Any]] | None:
    """A dict a row; None for an array."""
    if isinstance(table, np.ndarray):
        return None
    rows = table.to_dict("records") if hasattr(table, "to_dict") and hasattr(table, "columns") else table
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        got = type(table).__name__
        raise DataError(f"expected a list of dicts, a pandas DataFrame or a float array with NaN, got {got}")
    return rows


def _grid_of_records(labs: Labs, records: Sequence[Mapping[Any, Any]]) -> np.ndarray:
    """Values in their own units, by column number; NaN where missing."""
    grid = np.full((len(records), labs.limit), np.nan)
    for number, record in enumerate(records):
        try:
            cells = labs.convert(record)
        except DataError as error:
            raise DataError(f"row {number}: {error}") from error
        grid[number, cells[:, 0].astype(np.int64)] = cells[:, 1]
    return grid


def _grid(labs: Labs, table: np.ndarray) -> np.ndarray:
    if table.dtype.kind != "f" or table.ndim != 2 or table.shape[1] != labs.limit:
        got = f"{table.dtype} of shape {table.shape}"
        raise DataError(
            f"expected a float array of rows by {labs.limit} columns, NaN where a cell is missing, got {got}"
        )
    return table.astype(np.float64)


def _completed(labs: Labs, record: Mapping[Any, Any], known: np.ndarray, filled: np.ndarray) -> dict[Any, Any]:
    completed = dict(record)
    for number in np.flatnonzero(np.isnan(known)).tolist():
        column, value = labs.columns[number], float(filled[number])
        completed[column.name] = column.categories[int(value)] if column.categories else value
    return completed


def _completed_frame(labs: Labs, table: Any, known: np.ndarray, completed: Sequence[Mapping[Any, Any]]) -> Any:
    """A copy in which columns without a missing cell are the old ones."""
    frame = table.copy()
    for number in np.flatnonzero(np.isnan(known).any(axis=0)).tolist():
        name = labs.columns[number].name
        frame[name] = [row[name] for row in completed]
    return frame


# ---- the model


@torch.no_grad()
def _predict(pretrained: Pretrained, stream: str, labs: Labs, known: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Rows of the grid with what is missing filled in."""
    content = _content(labs, known, numbers)
    nothing = torch.zeros(len(known), dtype=torch.int64)
    batch = Batch({stream: content}, nothing, nothing, "impute", 0)
    missing = ~content.observed
    hidden = Hidden(missing, missing, None, missing.sum().float())
    objective = cast("MaskedPrediction", pretrained.model.objective)
    predicted: Prediction = objective.predict(pretrained.model.backbone, batch, {stream: hidden})[stream]
    column = content.place[predicted.row, predicted.places]
    target = cast("CellsTarget", objective.part(stream).target)
    values = target.likeliest(predicted.prediction, column).double().numpy()
    filled = known.copy()
    filled[predicted.row.numpy(), predicted.places.numpy()] = labs.original(values, column.numpy())
    return filled


def _content(labs: Labs, known: np.ndarray, numbers: np.ndarray) -> Content:
    """A token for every column of every row; those of missing cells are to be hidden."""
    values = np.zeros(known.shape, np.float32)
    for line, (row, number) in enumerate(zip(known, numbers, strict=True)):
        columns = np.flatnonzero(~np.isnan(row))
        try:
            values[line, columns] = labs.read(np.stack([columns, row[columns]], axis=1), 0, labs.limit, None)[:, 1]
        except DataError as error:
            raise DataError(f"row {number}: {error}") from error
    observed = torch.from_numpy(~np.isnan(known))
    place = torch.arange(labs.limit).expand(known.shape)
    return Content(torch.from_numpy(values), torch.ones_like(observed), observed, torch.zeros_like(place), place)
