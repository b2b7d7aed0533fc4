"""Video sources -> records: a folder or a zip of animations, films and numbered frames; long videos in clips."""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mmpt.data.builders import films
from mmpt.data.builders.files import FileRecord, file_records, joined_rows, list_files, read_file, read_table
from mmpt.data.builders.moving import Video, measured
from mmpt.data.decode import animation_frames
from mmpt.data.shard import Part
from mmpt.errors import DataError

STILLS = (".png", ".jpg", ".jpeg", ".webp")
MAYBE_MOVING = (".png", ".webp")
VIDEOS = (".gif", ".apng", ".mjpeg", *STILLS, *films.ENDINGS)
NUMBERED = re.compile(r"(.*?)(\d+)$")


class ClipRecord(NamedTuple):
    """A video, or a part of one, from frame `start` to `stop`; `part` counts from 1."""

    place: str
    size: int
    video: Video
    start: int
    stop: int
    part: int
    parts: int


def clip_records(source: Path, tables: Sequence[Path], frames: int, rejected: Part) -> list[ClipRecord]:
    """Every clip in a fixed order; what is no video, and rows without one, are noted in `rejected`.

    Args:
        source: a folder, searched to the bottom, or a .zip.
        tables: of captions and labels; `file` is a file, or the name that numbered frames share.
        frames: of a clip at most; a longer video is cut into clips of about equal length.
        rejected: told what is left out.

    Raises:
        DataError: the source or a table can't be used at all.
    """
    sizes = list_files(source, VIDEOS, "video", rejected)
    stills = _numbered(source, sizes)
    single = {name: size for name, size in sizes.items() if not any(name in own for own in stills.values())}
    sizes = single | {name: sum(own.values()) for name, own in stills.items()}
    rows = joined_rows(sizes, [read_table(path, rejected) for path in tables], "video", rejected)
    records = []
    for file in sorted(file_records(source, sizes, rows), key=lambda record: record.name):
        own = stills.get(file.name, {})
        try:
            _check_kind(file.name, bool(own))
            parts = [FileRecord(f"{source}/{name}", source, name, size, {}) for name, size in own.items()]
            records += _cut(measured(file, tuple(parts)), frames)
        except DataError as error:
            rejected.reject(file.place, str(error))
    return records


def _check_kind(name: str, numbered: bool) -> None:
    ending = PurePosixPath(name).suffix.lower()
    if ending in films.ENDINGS and not numbered:
        films.film_library()
    if ending in (".jpg", ".jpeg") and not numbered:
        raise DataError("a single picture; frames of a video are numbered, as in walk/0001.jpg, walk/0002.jpg ...")


def _numbered(source: Path, sizes: dict[str, int]) -> dict[str, dict[str, int]]:
    """The name that numbered pictures share -> those pictures, by their numbers; animations are none."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name in sorted(sizes, key=_number):
        path = PurePosixPath(name)
        shared = NUMBERED.match(path.stem)
        if path.suffix.lower() not in STILLS or not shared or _moves(source, name, sizes[name]):
            continue
        own = shared[1].rstrip("_-. ")
        found[str(path.parent / own) if own else str(path.parent)][name] = sizes[name]
    if "." in found:  # numbers alone, in no folder: they have the source's name
        found[source.stem] |= found.pop(".")
    return dict(found)


def _number(name: str) -> tuple[str, int, str]:
    path = PurePosixPath(name)
    shared = NUMBERED.match(path.stem)
    return (str(path.parent / shared[1]), int(shared[2]), name) if shared else (name, 0, name)


def _moves(source: Path, name: str, size: int) -> bool:
    if not name.lower().endswith(MAYBE_MOVING):
        return False
    try:
        frames = animation_frames(read_file(FileRecord("", source, name, size, {})))
        return next(frames, None) is not None and next(frames, None) is not None
    except DataError:
        return False


def _cut(video: Video, frames: int) -> list[ClipRecord]:
    count = -(-video.length // frames)
    edges = [number * video.length // count for number in range(count + 1)]
    records = []
    for part, (start, stop) in enumerate(pairwise(edges), start=1):
        place = video.file.place if count == 1 else f"{video.file.place} (part {part} of {count})"
        records.append(ClipRecord(place, video.file.size // count, video, start, stop, part, count))
    return records
