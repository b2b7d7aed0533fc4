"""Picture sources -> records: a folder or a zip, and tables of captions and labels joined to it."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mmpt.data.builders.documents import LINES, TABLES, read_rows, row_of
from mmpt.data.shard import Part
from mmpt.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MAX_FILE_BYTES = 256 * 2**20
ZIP_ERRORS = (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)


class PictureRecord(NamedTuple):
    """One picture file and what the tables say about it."""

    place: str
    source: Path  # the folder or the zip
    name: str  # below the source
    size: int
    row: dict[str, Any]


@dataclass
class Table:
    """Rows about pictures, found by relative path, or by bare name where that is unambiguous."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, bare: bool) -> dict[str, Any]:
        """The row of a picture; empty if there is none."""
        found = name if name in self.rows else PurePosixPath(name).name if bare else ""
        self.places.pop(found, None)
        return self.rows.get(found, {})


def picture_records(source: Path, tables: Sequence[Path], rejected: Part) -> list[PictureRecord]:
    """Every picture in a fixed order, with its row; rows without a picture are noted in `rejected`.

    Raises:
        DataError: the source or a table can't be used at all.
    """
    sizes = list_pictures(source, rejected)
    joined = [read_table(path, rejected) for path in tables]
    bare = [PurePosixPath(name).name for name in sizes]
    ambiguous = {name for name in bare if bare.count(name) > 1} if len(set(bare)) < len(bare) else set()
    records = []
    for name, size in sizes.items():
        alone = PurePosixPath(name).name not in ambiguous
        row = {key: value for table in joined for key, value in table.take(name, alone).items()}
        records.append(PictureRecord(f"{source}/{name}", source, name, size, row))
    for table in joined:
        for name, place in table.places.items():
            why = "several pictures have this name, give the path" if name in ambiguous else "there is no such picture"
            rejected.reject(place, f"'{name}': {why}")
    return records


def list_pictures(source: Path, rejected: Part) -> dict[str, int]:
    """Name below the source -> bytes, sorted; other files are noted in `rejected`."""
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
            f"{source}: expected a folder of pictures or a .zip, {'got a file' if source.exists() else 'found nothing'}"
        )
    pictures = {name: size for name, size in sorted(found.items()) if _is_picture(name)}
    if not pictures:
        raise DataError(f"{source}: no picture in it ({', '.join(PICTURES)})")
    for name in sorted(found.keys() - pictures.keys()):
        # tables and notes often lie beside the pictures, Finder's and Explorer's files too
        if not name.lower().endswith((*TABLES, *LINES, ".txt", ".md")) and not _is_clutter(name):
            rejected.reject(f"{source}/{name}", f"not one of {', '.join(PICTURES)}")
    return pictures


def read_table(path: Path, rejected: Part) -> Table:
    """A .csv or .jsonl with a `file` column; bad rows are noted in `rejected`."""
    if not path.exists() or not path.name.lower().endswith(TABLES + LINES):
        raise DataError(f"{path}: expected a .csv or .jsonl file with a 'file' column")
    table, columns = Table(), set[str]()
    for record in read_rows(path, path.name):
        try:
            row = row_of(record)
            columns |= row.keys()
            name = str(row.pop("file", "")).removeprefix("./")
            if not name:
                raise DataError("no 'file' in this row")
            if name in table.rows:
                raise DataError(f"'{name}' has a row already")
            _check_text(row)
        except (DataError, UnicodeEncodeError) as error:
            rejected.reject(record.place, str(error))
            continue
        table.rows[name] = row
        table.places[name] = record.place
    if "file" not in columns:
        raise DataError(f"{path}: there is no 'file' column; it has {', '.join(sorted(columns)) or 'no rows'}")
    return table


def read_picture(record: PictureRecord) -> bytes:
    """The file's bytes; raises DataError with the reason."""
    if record.size > MAX_FILE_BYTES:
        raise DataError(f"a file of {record.size} bytes; the limit is {MAX_FILE_BYTES}")
    if record.source.is_dir():
        try:
            return (record.source / record.name).read_bytes()
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror})") from error
    try:
        return _archive(record.source).read(record.name)
    except (*ZIP_ERRORS, KeyError) as error:
        raise DataError(f"can't be read from the zip ({error})") from error


@lru_cache(maxsize=1)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES) and not _is_clutter(name)


def _is_clutter(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) or part in ("Thumbs.db", "desktop.ini") for part in name.split("/"))


def _check_text(row: dict[str, Any]) -> None:
    for value in row.values():
        if isinstance(value, str):
            value.encode("utf-8")
