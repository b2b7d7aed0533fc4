"""Speech sources -> records: a folder or a zip, transcripts from tables or side files, long recordings in pieces."""

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mmpt.data.builders.documents import BOM
from mmpt.data.builders.files import (
    BESIDE,
    BLANK,
    FileRecord,
    Table,
    distinct,
    file_records,
    joined_rows,
    list_all,
    list_files,
    read_file,
    read_table,
)
from mmpt.data.builders.sounds import num_pieces, read_header
from mmpt.data.decode import decode_text
from mmpt.data.shard import Part
from mmpt.errors import DataError

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
SIDE_FILES = (".normalized.txt", ".txt", ".lab")  # the first that there is counts
NOTES = ("readme", "license", "licence", "copying", "changelog")
TEXT_COLUMNS = ("text", "transcript")
SHORTEST_LIMIT = 1.0  # seconds: leaves room for the search for a quiet place


class SoundRecord(NamedTuple):
    """A recording, or a piece of one.

    Args:
        place: for people.
        size: bytes of input, about.
        file: the recording.
        number: of the recording.
        part: of the recording, from 1.
        parts: of the recording.
    """

    place: str
    size: int
    file: FileRecord
    number: int
    part: int
    parts: int

    @property
    def transcript(self) -> Any:
        return transcript_of(self.file.row)


def list_recordings(
    source: Path, transcripts: Path | None, labels: Path | None, rejected: Part
) -> tuple[list[FileRecord], list[Path]]:
    """Every recording in a fixed order, with what tables and side files say about it.

    Returns:
        The recordings, and the files that their transcripts and labels come from.

    Raises:
        DataError: the source or a table can't be used at all.
    """
    sizes = list_files(source, SOUNDS, "recording", rejected, beside=(*BESIDE, ".lab"))
    paths = distinct(transcripts, labels)
    tables = {path: read_table(path, rejected) for path in paths}
    if transcripts:
        _check_transcripts(transcripts, tables[transcripts])
    rows = joined_rows(sizes, list(tables.values()), "recording", rejected, lone=_why_lone)
    if not any(table.columns & set(TEXT_COLUMNS) for table in tables.values()):
        sides = side_files(source, sizes, rejected)
        for name, side in sides.items():
            rows[name] |= _read_side(side, rejected)
        paths += dict.fromkeys(source / side.name for side in sides.values() if source.is_dir())
    return file_records(source, sizes, rows), paths


def side_files(source: Path, sounds: Mapping[str, int], rejected: Part) -> dict[str, FileRecord]:
    """Recording -> the transcript beside it; transcripts beside nothing are noted in `rejected`."""
    found = list_all(source, "recording")
    sides = {name: size for name, size in found.items() if name.lower().endswith(SIDE_FILES)}
    stems = {_stem(name, SOUNDS) for name in sounds}
    by_stem: dict[str, str] = {}
    for ending in reversed(SIDE_FILES):  # so that the first wins
        by_stem |= {name[: -len(ending)]: name for name in sides if name.lower().endswith(ending)}
    for name in sides:
        base = PurePosixPath(name).name.lower()
        if not _fits(name, stems) and not base.startswith(NOTES):
            rejected.reject(f"{source}/{name}", "a transcript without audio: no recording beside it has its name")
    owners = {name: by_stem[_stem(name, SOUNDS)] for name in sounds if _stem(name, SOUNDS) in by_stem}
    return {name: FileRecord(f"{source}/{side}", source, side, sides[side], {}) for name, side in owners.items()}


def sound_records(files: Sequence[FileRecord], max_seconds: float | None, rejected: Part) -> list[SoundRecord]:
    """A record a recording, or one a piece; long recordings with a transcript are noted in `rejected`."""
    records = []
    for number, file in enumerate(files):
        parts = _parts(file, max_seconds)
        if parts > 1 and transcript_of(file.row):
            seconds = f"longer than {max_seconds:g} s, and a recording with a transcript can't be cut"
            rejected.reject(file.place, f"{seconds}; raise the limit, or give it in pieces with their own transcripts")
            continue
        for part in range(1, parts + 1):
            place = file.place if parts == 1 else f"{file.place} (part {part} of {parts})"
            records.append(SoundRecord(place, file.size // parts, file, number, part, parts))
    return records


def first_rate(files: Sequence[FileRecord]) -> tuple[int, str]:
    """Sampling rate and name of the first recording that can be read; raises DataError if none can."""
    why = ""
    for file in files:
        try:
            return read_header(file).rate, file.name
        except DataError as error:
            why = why or f"{file.place}: {error}"
    raise DataError(f"none of {len(files)} recordings can be read; the first: {why}")


def check_limit(max_seconds: float | None) -> None:
    """Raises DataError for a limit that no cut can keep."""
    if max_seconds is not None and not SHORTEST_LIMIT <= max_seconds < inf:
        raise DataError(f"max_seconds must be at least {SHORTEST_LIMIT:g}, got {max_seconds}")


def transcript_of(row: Mapping[str, Any]) -> Any:
    """What was said; None where that is not known."""
    text = next((row[name] for name in TEXT_COLUMNS if row.get(name) not in BLANK), None)
    return (text.strip() or None) if isinstance(text, str) else text


def _parts(file: FileRecord, max_seconds: float | None) -> int:
    if max_seconds is None:
        return 1
    try:
        return num_pieces(read_header(file), max_seconds)
    except DataError:
        return 1  # whoever decodes it says why it is bad


def _check_transcripts(path: Path, table: Table) -> None:
    if not table.columns & set(TEXT_COLUMNS):
        there = ", ".join(sorted(table.columns))
        raise DataError(f"{path}: there is no '{TEXT_COLUMNS[0]}' or '{TEXT_COLUMNS[1]}' column; it has {there}")


def _why_lone(row: Mapping[str, Any]) -> str:
    why = "there is no such recording"
    return f"a transcript without audio: {why}" if transcript_of(row) else why


def _read_side(side: FileRecord, rejected: Part) -> dict[str, str]:
    try:
        text = decode_text(read_file(side).removeprefix(BOM)).strip()
        if not text:
            raise DataError("an empty transcript; the recording is kept without")
    except DataError as error:
        rejected.reject(side.place, str(error))
        return {}
    return {TEXT_COLUMNS[0]: text}


def _fits(name: str, stems: set[str]) -> bool:
    """Whether a recording has the name up to one of its dots: x.original.txt belongs to x.wav."""
    folder, _, base = name.rpartition("/")
    names = base.split(".")
    starts = [".".join(names[:count]) for count in range(1, len(names))]
    return any((f"{folder}/{start}" if folder else start) in stems for start in starts)


def _stem(name: str, endings: Sequence[str]) -> str:
    return next((name[: -len(ending)] for ending in endings if name.lower().endswith(ending)), name)
