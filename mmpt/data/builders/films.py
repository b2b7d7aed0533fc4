"""Films -> frames, by the package PyAV, which reads what FFmpeg reads."""

import io
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from PIL import Image

from mmpt.data.builders.files import FileRecord, read_file
from mmpt.errors import DataError

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
WHOLE = 0.9  # of the stated length: less has been cut off
TURNS = {
    90: Image.Transpose.ROTATE_90,
    -90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
}


def film_frames(file: FileRecord) -> Iterator[Image.Image]:
    """Every frame that a film stores, in RGB and upright: telephones store a film lying, and how to turn it.

    Raises:
        DataError: no PyAV, no film, no pictures in it, damaged ones, or less of them than the file says.
    """
    av: Any = film_library()
    # a film on disk may be larger than what is read at once
    place = str(file.source / file.name) if file.source.is_dir() else io.BytesIO(read_file(file))
    try:
        with av.open(place) as film:
            if not film.streams.video:
                raise DataError("a film without pictures")
            yield from _of_stream(film, film.streams.video[0])
    except av.error.FFmpegError as error:
        raise DataError(f"undecodable film ({error.strerror})") from error


def film_library() -> ModuleType:
    """The PyAV package; raises DataError if it is not installed."""
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError("films are read by the package PyAV; install it (pip install av), or give frames") from error
    return av


def _of_stream(film: Any, stream: Any) -> Iterator[Image.Image]:
    places: list[int] = []  # where packets begin and end
    for packet in film.demux(stream):
        if packet.pts is not None:
            places += [packet.pts, packet.pts + (packet.duration or 0)]
        for frame in packet.decode():
            if frame.is_corrupt:
                raise DataError("a damaged film")
            picture = frame.to_image()
            yield picture.transpose(TURNS[frame.rotation]) if frame.rotation in TURNS else picture
    there, stated = (max(places) - min(places)) * float(stream.time_base) if places else 0.0, _stated_seconds(stream)
    one = 1 / float(stream.average_rate) if stream.average_rate else 0.0
    if stated is not None and there + one < WHOLE * stated:
        raise DataError(f"a film that is cut short: {there:.1f} of {stated:.1f} seconds are there")


def _stated_seconds(stream: Any) -> float | None:
    """How long its pictures go on, where the file says that; Matroska does in a tag."""
    if stream.duration:
        return stream.duration * float(stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    return None if tag is None else int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
