"""Text sources -> records -> documents: folders, .txt and .md files, .jsonl(.gz) and .csv."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmpt.data.decode import decode_text
from mmpt.errors import DataError

WHOLE = (".txt", ".md")
LINES = (".jsonl", ".jsonl.gz", ".ndjson")
TABLES = (".csv",)
LONGEST_CELL = 2**31 - 1
BOM = b"\xef\xbb\xbf"


class TextRecord(NamedTuple):
    """One document, not yet read or parsed.

    Args:
        place: file, or file:line.
        name: path below the source folder: the group of a whole file.
        content: a path (a document of its own), a line of JSON, a row of a table, or None where `damage` says why.
        size: bytes, about.
        damage: why nothing could be read here.
    """

    place: str
    name: str
    content: Path | bytes | dict[str, Any] | None
    size: int
    damage: str = ""


class Document(NamedTuple):
    """A parsed document."""

    text: str
    group: str
    labels: dict[str, Any]


@dataclass(frozen=True)
class DocumentParser:
    """Record -> document; raises DataError with the reason for a bad one."""

    text_key: str = "text"
    label_key: str = "label"
    group_key: str = "group"

    def __call__(self, record: TextRecord) -> Document:
        if isinstance(record.content, Path):
            return self._whole(record.content, record.name)
        values = row_of(record)
        if self.text_key not in values:
            raise DataError(f"no '{self.text_key}' here; it has {', '.join(map(str, values)) or 'nothing'}")
        text = values.pop(self.text_key)
        if not isinstance(text, str):
            raise DataError(f"'{self.text_key}' is {type(text).__name__}, expected text")
        group = values.pop(self.group_key, None)
        label = values.pop(self.label_key, None)
        labels = values | ({} if label is None else {"label": label})
        return _checked(Document(text, record.place if group in (None, "") else str(group), labels))

    def _whole(self, path: Path, name: str) -> Document:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror})") from error
        above = Path(name).parts[:-1]
        labels = {"file": name} | ({"label": above[0]} if above else {})
        return _checked(Document(decode_text(data.removeprefix(BOM)), name, labels))


def row_of(record: TextRecord) -> dict[str, Any]:
    """The keys and values of a JSON line or table row; raises DataError for a bad one."""
    if isinstance(record.content, bytes):
        return parse_object(record.content)
    if isinstance(record.content, dict):
        return dict(record.content)
    raise DataError(record.damage)


def parse_object(line: bytes) -> dict[str, Any]:
    """A JSON object of one line."""
    try:
        value = json.loads(decode_text(line))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"expected a JSON object, got {type(value).__name__}")
    return value


def text_files(sources: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every file of the sources in a fixed order, with its name below the source; raises DataError for a wrong one."""
    found: list[tuple[Path, str]] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in WHOLE)
            if not inside:
                raise DataError(f"{source}: no .txt or .md file in this folder")
            found += [(path, path.relative_to(source).as_posix()) for path in inside]
        elif not source.exists():
            raise DataError(f"{source}: there is no such file or folder")
        elif not source.name.lower().endswith(WHOLE + LINES + TABLES):
            raise DataError(f"{source}: expected a folder, or a {', '.join(WHOLE + LINES + TABLES)} file")
        else:
            found.append((source, source.name))
    return found


def text_records(files: Sequence[tuple[Path, str]]) -> Iterator[TextRecord]:
    """The records of all files, one by one; damage in a file becomes a record that says so."""
    for path, name in files:
        if path.suffix.lower() in WHOLE:
            yield TextRecord(str(path), name, path, path.stat().st_size)
        else:
            yield from read_rows(path, name)


def read_rows(path: Path, name: str) -> Iterator[TextRecord]:
    """Lines of a .jsonl(.gz) or rows of a .csv."""
    reader: Callable[[Path, str], Iterator[TextRecord]] = _table if path.suffix.lower() in TABLES else _lines
    last = TextRecord(str(path), name, None, 0)
    try:
        for record in reader(path, name):
            last = record
            yield record
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        yield last._replace(content=None, size=0, damage=f"the file is damaged after this place ({error})")


def _lines(path: Path, name: str) -> Iterator[TextRecord]:
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if stripped := line.removeprefix(BOM if number == 1 else b"").strip():
                yield TextRecord(f"{path}:{number}", name, stripped, len(line))


def _table(path: Path, name: str) -> Iterator[TextRecord]:
    csv.field_size_limit(LONGEST_CELL)
    # undecodable bytes travel as surrogates and are refused with their row, not with the whole file
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            size = sum(len(value) for value in row.values() if isinstance(value, str))
            place = f"{path}:{reader.line_num}"
            if None in row:
                yield TextRecord(place, name, None, size, "more cells than the header has columns")
            else:
                yield TextRecord(place, name, {k: v for k, v in row.items() if v not in (None, "")}, size)


def _checked(document: Document) -> Document:
    if not document.text.strip():
        raise DataError("the document is empty")
    for text in (document.text, document.group, json.dumps(document.labels, ensure_ascii=False)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"not UTF-8 text (character {error.start})") from error
    return document
