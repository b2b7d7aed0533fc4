"""Where ECG recordings lie: files in a folder or zip, or the rows of one array; tables are joined to them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float

from mmpt.data.builders.ecg_records import EcgRecord, EcgRules, Recording, lead_columns, make_recording, pieces, require
from mmpt.data.builders.files import BESIDE, FileRecord, Table, joined_rows, list_all, read_file, read_table
from mmpt.data.builders.header import Header
from mmpt.data.builders.records import (
    ARRAYS,
    FORMATS,
    check_libraries,
    count_samples,
    load_array,
    oriented,
    read_header,
    read_samples,
    readable,
)
from mmpt.data.shard import Part
from mmpt.errors import DataError

SIGNALS = (".dat", ".mat")  # of WFDB records, read through their headers
# annotations, pages and check sums stand beside the records of PhysioNet
BESIDE_RECORDS = (*BESIDE, ".atr", ".qrs", ".ecg", ".pwave", ".xws", ".html")
LARGEST_FILE = 2**32  # bytes of a zip's member
MOST_SAMPLES = 2000  # a byte of compressed zeros
UNREAD = Header(None, None, None, None)


def ecg_records(
    source: Path, tables: Sequence[Path], rules: EcgRules, max_seconds: float | int | None, rejected: Part
) -> list[EcgRecord]:
    """Every stretch in a fixed order; files that can't be used and rows without one are noted in `rejected`.

    Raises:
        DataError: the source or a table can't be used at all, or a setting is missing that its files don't say.
    """
    if source.is_file() and source.name.lower().endswith(ARRAYS):
        own, count, size = row_recording(source, rules)
        read = [read_table(path, rejected, "row", _row_number) for path in tables]
        rows = joined_rows(map(str, range(count)), read, "row", rejected)
        return [
            piece
            for row in range(count)
            for piece in pieces(source, own._replace(row=row), rows[str(row)], size, max_seconds)
        ]
    beside = {path.resolve() for path in tables}
    sizes = {name: size for name, size in list_all(source, "record").items() if (source / name).resolve() not in beside}
    if not any(map(is_record, sizes)):
        raise DataError(f"{source}: no record in it ({', '.join(FORMATS)})")
    check_libraries(sizes)
    recordings = file_recordings(source, sizes, rules, rejected)
    read = [_without_endings(read_table(path, rejected), rejected) for path in tables]
    rows = joined_rows(dict.fromkeys(_stem(name) for name in sizes if is_record(name)), read, "record", rejected)
    return [
        piece
        for own in recordings
        for piece in pieces(source, own, rows[_stem(own.name)], sum(sizes[file] for file in own.files), max_seconds)
    ]


def file_recordings(source: Path, sizes: Mapping[str, int], rules: EcgRules, rejected: Part) -> list[Recording]:
    """The recordings of a folder or zip; segments of a record are none of their own."""
    headers: dict[str, Header] = {}
    for name in filter(is_record, sizes):
        if name.lower().endswith(ARRAYS):
            require(f"{source}/{name}", UNREAD, rules)
        try:
            headers[name] = _header(source, name, sizes, rules)
        except DataError as error:
            rejected.reject(f"{source}/{name}", str(error))
    files = {name: _files(name, header) for name, header in headers.items()}
    used = {file for own in files.values() for file in own[1:]}
    recordings = []
    for name in [name for name in headers if name not in used]:
        try:
            lead_columns(headers[name], rules)  # a table beside the records lacks other things too
        except DataError as error:
            rejected.reject(f"{source}/{name}", str(error))
            continue
        require(f"{source}/{name}", headers[name], rules)
        try:
            recordings.append(make_recording(name, files[name], headers[name], rules))
        except DataError as error:
            rejected.reject(f"{source}/{name}", str(error))
    _note_others(source, (name for name in sizes if not is_record(name) and name not in used), rejected)
    return recordings


def row_recording(path: Path, rules: EcgRules) -> tuple[Recording, int, int]:
    """What all rows of an N T or N T C array are like, how many there are, and bytes of each."""
    require(str(path), UNREAD, rules)
    width = len(rules.leads or ())
    try:
        with readable("not a readable array"):
            array = load_array(path)
        if array.ndim not in (2, 3) or 0 in array.shape:
            shape = " x ".join(map(str, array.shape)) or "no axis"
            raise DataError(f"expected an array of N x T, or N x T x {width}, with a recording a row, got {shape}")
        header = UNREAD._replace(length=len(oriented(array[0], width)))
        own = make_recording(path.name, (path.name,), header, rules)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return own, len(array), array.dtype.itemsize * array[0].size


def read_stretch(record: EcgRecord) -> Float[np.ndarray, "T C"]:
    """All columns of a stretch, in the file's unit; raises DataError with the reason."""
    own = record.recording
    if own.row is not None:
        array = _whole_array(record.source, record.source.stat().st_mtime_ns)
        return oriented(array[own.row], own.width)[record.start : record.stop].astype(np.float64)
    with local(record.source, own.files) as path:
        return read_samples(path, own.width, record.start, record.stop)


@contextmanager
def local(source: Path, names: Sequence[str]) -> Iterator[Path]:
    """The first of the files; those of a zip lie side by side in a folder of their own for as long."""
    if source.is_dir():
        yield source / names[0]
        return
    with TemporaryDirectory(prefix="mmpt-") as folder:
        for name in names:
            data = read_file(FileRecord("", source, name, 0, {}), LARGEST_FILE)
            (Path(folder) / PurePosixPath(name).name).write_bytes(data)
        yield Path(folder) / PurePosixPath(names[0]).name


def input_files(source: Path, records: Sequence[EcgRecord]) -> list[Path]:
    """The files on disk that the records come from."""
    if not source.is_dir():
        return [source]
    return [source / name for name in dict.fromkeys(name for own in records for name in own.recording.files)]


def is_record(name: str) -> bool:
    """Whether a file is the one that a recording is read through."""
    return name.lower().endswith(tuple(FORMATS))


def _row_number(value: Any) -> str:
    text = str(value).strip()
    if not (text.isascii() and text.isdecimal()):
        raise DataError("no 'row' in this row" if value is None else f"'row' is '{value}', expected a number from 0")
    return str(int(text))


def _header(source: Path, name: str, sizes: Mapping[str, int], rules: EcgRules) -> Header:
    with local(source, [name]) as path:
        header = read_header(path, len(rules.leads or ()))
    files = _files(name, header)
    if absent := [file for file in files if file not in sizes]:
        raise DataError(f"its header names '{PurePosixPath(absent[0]).name}', which is not beside it")
    if header.length is None:
        with local(source, files) as path:
            return header._replace(length=count_samples(path))
    if header.length > MOST_SAMPLES * sum(sizes[file] for file in files):
        raise DataError(f"its header promises {header.length} samples, far more than its files can hold")
    return header


def _files(name: str, header: Header) -> tuple[str, ...]:
    return (name, *((PurePosixPath(name).parent / file).as_posix() for file in header.files))


def _without_endings(table: Table, rejected: Part) -> Table:
    """A row may name its record with or without the ending, or by its signal file."""
    found = Table(columns=table.columns)
    for name, row in table.rows.items():
        stem = _stem(name)
        if stem in found.rows:
            rejected.reject(table.places[name], f"'{name}' has a row already")
            continue
        found.rows[stem], found.places[stem] = row, table.places[name]
    return found


def _stem(name: str) -> str:
    ending = next((ending for ending in (*FORMATS, *SIGNALS) if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _note_others(source: Path, names: Iterable[str], rejected: Part) -> None:
    for name in names:
        if name.lower().endswith(SIGNALS):
            rejected.reject(f"{source}/{name}", "no readable header (.hea) names this signal file")
        elif PurePosixPath(name).suffix and not name.lower().endswith(BESIDE_RECORDS):
            rejected.reject(f"{source}/{name}", f"not one of {', '.join(FORMATS)}")


@lru_cache(maxsize=1)
def _whole_array(path: Path, changed: int) -> np.ndarray:
    return load_array(path)
