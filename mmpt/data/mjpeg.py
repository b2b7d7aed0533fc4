"""Motion JPEG: the JPEG pictures of a clip, one behind the other, and nothing else."""

import re

from mmpt.errors import DataError

BEGIN, END, SCAN, FILL = b"\xff\xd8", 0xD9, 0xDA, 0xFF
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan a zero or a restart's number follows every other 0xff
CUT = "a motion JPEG that is cut short or damaged"


def split_jpegs(data: bytes) -> list[bytes]:
    """Each picture's bytes; raises DataError where something else begins, or the last one doesn't end."""
    pictures, start = [], 0
    while start < len(data):
        stop = _end_of(data, start)
        pictures.append(data[start:stop])
        start = stop
    return pictures


def _end_of(data: bytes, start: int) -> int:
    if data[start : start + 2] != BEGIN:
        raise DataError("not a motion JPEG: something stands between its pictures")
    place = start + 2
    while len(marker := data[place : place + 2]) == 2 and marker[0] == FILL:
        if marker[1] == END:
            return place + 2
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker[1] == FILL:
            place += 1
        elif size < 2:
            break
        else:
            place += 2 + size
        if marker[1] == SCAN:
            found = MARKER.search(data, place)
            place = found.start() if found else len(data)
    raise DataError(CUT)
