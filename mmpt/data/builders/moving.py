"""Sources of video -> frames, one after the other: animations, numbered pictures, and films where PyAV is there."""

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image

from mmpt.data.builders import films
from mmpt.data.builders.files import FileRecord, read_file
from mmpt.data.decode import animation_frames, animation_times, check_frames, open_picture, repeats
from mmpt.data.mjpeg import split_jpegs
from mmpt.errors import DataError

UNTIMED = (".mjpeg", *films.ENDINGS)


class Video(NamedTuple):
    """One video of a source.

    Args:
        file: the animation or film; for numbered pictures the first one's, with the name that they share.
        stills: the numbered pictures, in their order; empty for a file of moving pictures.
        counts: how often each frame that is stored counts, for an animation is shown longer where nothing moves.
    """

    file: FileRecord
    stills: tuple[FileRecord, ...]
    counts: tuple[int, ...]

    @property
    def length(self) -> int:
        """Frames."""
        return sum(self.counts)


def measured(file: FileRecord, stills: tuple[FileRecord, ...] = ()) -> Video:
    """The video with its frames counted; raises DataError for one that can't be read, or is none."""
    if stills:
        sizes, counts = [_size(still) for still in stills], [1] * len(stills)
    else:
        sizes, counts = _counted(file)
    check_frames(sizes[:1] * sum(counts) if len(set(sizes)) == 1 else sizes)
    return Video(file, stills, tuple(counts))


def _size(still: FileRecord) -> tuple[int, int]:
    """Of a numbered picture, from its header: the rest is read later."""
    try:
        with Image.open(io.BytesIO(read_file(still))) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"frame '{still.name}': not a PNG, JPEG or WebP picture") from error


def _counted(file: FileRecord) -> tuple[list[tuple[int, int]], list[int]]:
    if PurePosixPath(file.name).suffix.lower() in UNTIMED:
        sizes = [frame.size for frame, _ in _stored(file)]
        return sizes, [1] * len(sizes)
    size, times = animation_times(read_file(file))
    return [size], repeats(times)


def _stored(file: FileRecord) -> Iterator[tuple[Image.Image, float]]:
    """Every frame that a file stores, in RGB, and its milliseconds; 0 is not known."""
    ending = PurePosixPath(file.name).suffix.lower()
    if ending in films.ENDINGS:
        yield from ((frame, 0) for frame in films.film_frames(file))
    elif ending == ".mjpeg":
        yield from ((open_picture(picture)[0], 0) for picture in split_jpegs(read_file(file)))
    else:
        yield from animation_frames(read_file(file))


class FrameReader:
    """Frames of one video after the other; what comes next in a video is not looked for from its beginning."""

    def __init__(self) -> None:
        self._of: Video | None = None
        self._next, self._frames = 0, iter(())

    def read(self, video: Video, start: int, stop: int) -> list[Image.Image]:
        """Those from `start` to `stop`; raises DataError where they can't be decoded."""
        if video != self._of or start < self._next:
            self._of, self._next, self._frames = video, 0, _frames_of(video)
        try:
            found = list(islice(self._frames, start - self._next, stop - self._next))
        except DataError:
            self._of = None
            raise
        self._next = stop
        return found


def _frames_of(video: Video) -> Iterator[Image.Image]:
    if not video.stills:
        for (frame, _), count in zip(_stored(video.file), video.counts, strict=True):
            yield from [frame] * count
    for still in video.stills:
        try:
            yield open_picture(read_file(still))[0]
        except DataError as error:
            raise DataError(f"frame '{still.name}': {error}") from error
