"""A folder or a zip of files -> records, and tables of captions, transcripts and labels joined to them."""

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mmpt.data.builders.documents import LINES, TABLES, read_rows, row_of
from mmpt.data.shard import Part
from mmpt.errors import DataError

MAX_FILE_BYTES = 256 * 2**20
BLANK = (None, "")  # cells of a table
BESIDE = (*TABLES, *LINES, ".txt", ".md")  # tables and notes often lie beside the files
ZIP_ERRORS = (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)


class FileRecord(NamedTuple):
    """One file and what the tables say about it."""

    place: str
    source: Path  # the folder or the zip
    name: str  # below the source
    size: int
    row: dict[str, Any]

    @property
    def group(self) -> str:
        """What keeps files in one split."""
        group = self.row.get("group")
        return PurePosixPath(self.name).stem if group in BLANK else str(group)

    def labels(self, *without: str) -> dict[str, Any]:
        """The file's name and the row's columns but some; without a label, the first sub-folder's name is one."""
        values = {key: value for key, value in self.row.items() if key not in (*without, "group")}
        above = PurePosixPath(self.name).parts[:-1]
        if "label" not in values and above:
            values["label"] = above[0]
        return {"file": self.name} | values


@dataclass
class Table:
    """Rows about files, found by relative path, or by bare name where that is unambiguous."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)

    def take(self, name: str, bare: bool) -> dict[str, Any]:
        """The row of a file; empty if there is none."""
        found = name if name in self.rows else PurePosixPath(name).name if bare else ""
        self.places.pop(found, None)
        return self.rows.get(found, {})


def _file_name(cell: Any) -> str:
    name = str(cell or "").removeprefix("./")
    if not name:
        raise DataError("no 'file' in this row")
    return name


def list_all(source: Path, what: str) -> dict[str, int]:
    """Name below the source -> bytes, sorted; what Finder and Explorer leave behind is not listed.

    Raises:
        DataError: the source is neither a folder nor a readable zip.
    """
    if source.is_dir():
        found = {p.relative_to(source).as_posix(): p.stat().st_size for p in source.rglob("*") if p.is_file()}
    elif source.suffix.lower() == ".zip" and source.exists():
        try:
            with zipfile.ZipFile(source) as archive:
                found = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
        except ZIP_ERRORS as error:
            raise DataError(f"{source}: not a readable zip ({error})") from error
    else:
        raise DataError(
            f"{source}: expected a folder of {what}s or a .zip, {'got a file' if source.exists() else 'found nothing'}"
        )
    return {name: size for name, size in sorted(found.items()) if not _is_clutter(name)}


def list_files(
    source: Path, endings: tuple[str, ...], what: str, rejected: Part, *, beside: tuple[str, ...] = BESIDE
) -> dict[str, int]:
    """Name below the source -> bytes of the files with one of the endings, sorted; others are noted in `rejected`.

    Args:
        source: a folder, searched to the bottom, or a .zip.
        endings: in lower case, with the dot.
        what: one such file, for people, for example `picture`.
        rejected: told about files of other endings.
        beside: endings that may stand beside without a word.
    """
    found = list_all(source, what)
    files = {name: size for name, size in found.items() if name.lower().endswith(endings)}
    if not files:
        raise DataError(f"{source}: no {what} in it ({', '.join(endings)})")
    for name in found:
        if name not in files and not name.lower().endswith(beside):
            rejected.reject(f"{source}/{name}", f"not one of {', '.join(endings)}")
    return files


def read_table(path: Path, rejected: Part, key: str = "file", name_of: Callable[[Any], str] = _file_name) -> Table:
    """A .csv or .jsonl whose rows are told apart by a column; bad rows are noted in `rejected`.

    Args:
        path: the table.
        rejected: told of rows that can't be used.
        key: the column.
        name_of: a row's name from its cell, None where there is none; raises DataError for what is no name.
    """
    if not path.exists() or not path.name.lower().endswith(TABLES + LINES):
        raise DataError(f"{path}: expected a .csv or .jsonl file with a '{key}' column")
    table = Table()
    for record in read_rows(path, path.name):
        try:
            row = row_of(record)
            table.columns |= row.keys()
            name = name_of(row.pop(key, None))
            if name in table.rows:
                raise DataError(f"'{name}' has a row already")
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except (DataError, UnicodeEncodeError) as error:
            rejected.reject(record.place, str(error))
            continue
        table.rows[name] = row
        table.places[name] = record.place
    if key not in table.columns:
        raise DataError(f"{path}: there is no '{key}' column; it has {', '.join(sorted(table.columns)) or 'no rows'}")
    return table


def distinct(*tables: str | Path | None) -> list[Path]:
    """The tables that there are, in order; captions and labels may be one."""
    return list(dict.fromkeys(Path(table) for table in tables if table))


def joined_rows(
    names: Iterable[str],
    tables: Sequence[Table],
    what: str,
    rejected: Part,
    *,
    lone: Callable[[Mapping[str, Any]], str] | None = None,
) -> dict[str, dict[str, Any]]:
    """File name -> what the tables say about it; rows without a file are noted in `rejected`.

    Args:
        names: below the source.
        tables: a later one overrules an earlier one.
        what: one file, for people.
        rejected: told about rows that fit no file.
        lone: the reason for such a row, from its columns; None says that there is no such file.
    """
    names = list(names)
    counts = Counter(PurePosixPath(name).name for name in names)
    joined = {}
    for name in names:
        bare = counts[PurePosixPath(name).name] == 1
        joined[name] = {key: value for table in tables for key, value in table.take(name, bare).items()}
    for table in tables:
        for name, place in table.places.items():
            why = lone(table.rows[name]) if lone else f"there is no such {what}"
            if counts[name] > 1:
                why = f"several {what}s have this name, give the path"
            rejected.reject(place, f"'{name}': {why}")
    return joined


def file_records(source: Path, sizes: Mapping[str, int], rows: Mapping[str, dict[str, Any]]) -> list[FileRecord]:
    """A record a file, in the order of `sizes`."""
    return [FileRecord(f"{source}/{name}", source, name, size, rows[name]) for name, size in sizes.items()]


def read_file(record: FileRecord, limit: int = MAX_FILE_BYTES) -> bytes:
    """The file's bytes; raises DataError with the reason."""
    if record.size > limit:
        raise DataError(f"a file of {record.size} bytes; the limit is {limit}")
    if record.source.is_dir():
        try:
            return (record.source / record.name).read_bytes()
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror})") from error
    try:
        return _archive(record.source, record.source.stat().st_mtime_ns).read(record.name)
    except (*ZIP_ERRORS, KeyError) as error:
        raise DataError(f"can't be read from the zip ({error})") from error


def source_files(records: Sequence[FileRecord]) -> list[Path]:
    """The files on disk that the records come from: those of a folder, or the one zip."""
    source = records[0].source
    return [source / record.name for record in records] if source.is_dir() else [source]


@lru_cache(maxsize=1)
def _archive(path: Path, changed: int) -> zipfile.ZipFile:
    """Kept open; a file that has changed since is another one."""
    return zipfile.ZipFile(path)


def _is_clutter(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) or part in ("Thumbs.db", "desktop.ini") for part in name.split("/"))
