"""A table file -> columns of text: no reader guesses a type, so that every odd cell can be told of."""

import csv
import difflib
import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import yaml

from mmpt.data.shard import Part
from mmpt.errors import DataError

SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
TABLES = (*SEPARATORS, ".parquet")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})  # in any case
BLOCK = 2**26  # bytes: no row, with its note, can be longer
READ_ERRORS = (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)


class Coded(NamedTuple):
    """A column of text, each distinct value kept once.

    Args:
        texts: stripped, in order of appearance.
        code: of every row, an index into texts; -1 where the cell is empty.
    """

    texts: list[str]
    code: np.ndarray


@dataclass(frozen=True)
class LabTable:
    """The rows of a table file.

    Args:
        path: the file.
        columns: text, null where a typed file has no value.
        numbers: of the rows, for people: the first below the header is 1, and one that was left out is counted too.
    """

    path: Path
    columns: pa.Table
    numbers: np.ndarray

    def __len__(self) -> int:
        return self.columns.num_rows

    def place(self, row: int, column: str = "") -> str:
        """A row, or a cell of it, for people."""
        return f"{self.path}: row {self.numbers[row]}" + (f", {column}" if column else "")

    def coded(self, name: str) -> Coded:
        """One column."""
        encoded = self.columns.column(name).combine_chunks().dictionary_encode()
        texts: dict[str, int] = {}
        code = [_number(text.strip(), texts) for text in encoded.dictionary.to_pylist()]
        # a null's -1 finds the last entry
        return Coded(list(texts), np.array([*code, -1])[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)])


def read_names(path: Path) -> list[str]:
    """The names of a table's columns; raises DataError for a file that is no table, or columns that can't be told."""
    ending = ending_of(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a table file, {'got a folder' if path.is_dir() else 'found nothing'}")
    try:
        if ending == ".parquet":
            names = pq.ParquetFile(path).schema_arrow.names
        else:
            with _opened(path) as file:
                names = next(csv.reader(file, delimiter=SEPARATORS[ending]), [])
    except READ_ERRORS as error:
        raise DataError(_unreadable(path, error)) from error
    names = [name.strip() for name in names]
    _check_names(path, names)
    if len(names) == 1 and any(other in names[0] for other in ",;\t"):
        raise DataError(
            f"{path}: the header is one column '{names[0]:.80}'; expected cells separated as {ending} has them"
        )
    return names


def read_lab_table(path: Path, names: Sequence[str], wanted: Sequence[str], rejected: Part) -> LabTable:
    """The wanted columns.

    Args:
        path: .csv(.gz), .tsv(.gz) or .parquet.
        names: of all columns, as read_names gave them.
        wanted: of those to read.
        rejected: told of rows with too few or too many cells.

    Raises:
        DataError: the file is damaged, is not UTF-8, has no row, or a column holds no plain values.
    """
    read = _parquet if ending_of(path) == ".parquet" else _separated
    try:
        table = read(path, names, wanted, rejected)
    except READ_ERRORS as error:
        raise DataError(_unreadable(path, error)) from error
    if not len(table):
        ragged = rejected.rejected[0]["reason"] if rejected.rejected else "the table is empty"
        raise DataError(f"{path}: no row below the header can be used ({ragged})")
    return table


def read_units(units: str | Path | Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Column -> unit, from a mapping or a file: .json, .yaml, or .csv with the columns `column` and `unit`."""
    if units is None or isinstance(units, Mapping):
        return _checked_units("units", dict(units or {}))
    path = Path(units)
    try:
        if path.suffix.lower() in (".json", ".yaml", ".yml"):
            text = path.read_text(encoding="utf-8")
            return _checked_units(units, json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text))
        names = read_names(path)
        nearest(path, ("column", "unit"), names, "column")
        table = read_lab_table(path, names, ("column", "unit"), rejected := Part())
        if rejected.rejected:
            raise DataError(": ".join(rejected.rejected[0].values()))
        columns, unit = (_spelled(table.coded(name)) for name in ("column", "unit"))
        if len(set(columns)) < len(columns):
            raise DataError(f"{path}: a column has two rows; give it one unit")
        return _checked_units(units, dict(zip(columns, unit, strict=True)))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: units can't be read ({error})") from error


def nearest(path: Path, wanted: Iterable[str], there: Sequence[str], what: str) -> None:
    """Raises DataError with the likeliest spelling for the first wanted name that is not there."""
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(there[:20])}"
            raise DataError(f"{path}: there is no {what} '{name}'; {hint}")


def ending_of(path: Path) -> str:
    """The ending that says how a table is read."""
    fitting = [ending for ending in TABLES if path.name.lower().endswith(ending)]
    if not fitting:
        raise DataError(f"{path}: expected a table ({', '.join(TABLES)}); save it as one of them")
    return fitting[-1]


def _number(text: str, texts: dict[str, int]) -> int:
    return -1 if text.lower() in MISSING else texts.setdefault(text, len(texts))


def _spelled(column: Coded) -> list[str | None]:
    return [None if code < 0 else column.texts[code] for code in column.code]


def _opened(path: Path) -> TextIOWrapper:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _separated(path: Path, names: Sequence[str], wanted: Sequence[str], rejected: Part) -> LabTable:
    """One thread, for several can't say which row is ragged."""
    skipped: list[int] = []

    def skip(row: pc.InvalidRow) -> str:
        skipped.append(row.number)  # counted with the header, from 1
        lines = row.text.count("\n") + 1
        why = f" (over {lines} lines: is a quotation mark left open?)" if lines > 1 else ""
        reason = f"{row.actual_columns} cells, where the header has {row.expected_columns} columns{why}"
        rejected.reject(f"{path}: row {row.number - 1}", reason)
        return "skip"

    table = pc.read_csv(
        path,
        read_options=pc.ReadOptions(use_threads=False, column_names=names, block_size=BLOCK),
        parse_options=pc.ParseOptions(
            delimiter=SEPARATORS[ending_of(path)], newlines_in_values=True, invalid_row_handler=skip
        ),
        convert_options=pc.ConvertOptions(
            column_types=dict.fromkeys(names, pa.large_string()), include_columns=list(wanted)
        ),
    ).slice(1)
    numbers = np.setdiff1d(np.arange(1, table.num_rows + len(skipped) + 1), np.array(skipped, dtype=int) - 1)
    return LabTable(path, table, numbers)


def _parquet(path: Path, names: Sequence[str], wanted: Sequence[str], rejected: Part) -> LabTable:
    """Numbers become the shortest text that reads back the same."""
    file = pq.ParquetFile(path)
    stored = dict(zip(names, file.schema_arrow.names, strict=True))
    chosen = [stored[name] for name in wanted]
    table = file.read(columns=chosen).select(chosen).rename_columns(list(wanted))
    columns = {}
    for name in wanted:
        column = table.column(name)
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            raise DataError(f"{path}: column '{name}' holds {column.type} values; expected numbers, text or dates")
        columns[name] = column.cast(pa.large_string())
    return LabTable(path, pa.table(columns), np.arange(1, table.num_rows + 1))


def _check_names(path: Path, names: Sequence[str]) -> None:
    if not names:
        raise DataError(f"{path}: the file is empty; expected a header with the columns' names")
    twice = sorted({name for name in names if names.count(name) > 1} - {""})
    if twice:
        raise DataError(f"{path}: two columns are named '{twice[0]}'; names must differ, rename one")
    for number, name in enumerate(names, start=1):
        if not name or name.startswith("__index_level_"):
            raise DataError(f"{path}: column {number} has no name; name it, or save the table without its row index")


def _checked_units(place: object, units: Any) -> dict[str, str | None]:
    if not isinstance(units, dict):
        raise DataError(f"{place}: expected a mapping of columns to units, got {type(units).__name__}")
    for column, unit in units.items():
        if not (isinstance(column, str) and (unit is None or isinstance(unit, str))):
            raise DataError(f"{place}: a unit is text for a column's name, got {column!r}: {unit!r}")
    return {column: unit.strip() or None if unit else None for column, unit in units.items()}


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path}: not a readable {ending_of(path)} table in UTF-8 ({str(error) or type(error).__name__})"
