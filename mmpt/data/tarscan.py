"""Where every member of a tar lies, and every way in which the tar is damaged or can't be trusted.

Python's tarfile ends silently at a damaged header and at a cut that falls between members; both are noticed here.
"""

import tarfile
from pathlib import Path
from typing import NamedTuple

BLOCK = 512
LOOK = 1 << 20
GZIP = b"\x1f\x8b"


class TarMember(NamedTuple):
    """One file inside a tar; offset and size in bytes of its data."""

    name: str
    offset: int
    size: int


class Scan(NamedTuple):
    """What a tar holds.

    Args:
        members: plain files, whole, in order.
        refused: (member, reason) of links, devices and other things that are not plain files.
        damage: what is wrong with the tar; empty if nothing is. The last sample before it may be half.
        cut: name of the member that the damage lies in, where that is known.
    """

    members: list[TarMember]
    refused: list[tuple[str, str]]
    damage: str
    cut: str = ""


def scan_tar(path: Path) -> Scan:
    """Read all headers of an uncompressed tar; never raises for a damaged one."""
    found = Scan([], [], "")
    with path.open("rb") as file:
        if file.read(2) == GZIP:
            return Scan([], [], "a compressed tar, whose members can't be read by offset; unpack it with gunzip")
    try:
        with tarfile.open(path, "r:") as tar:
            return _headers(tar, path, found)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        last = found.members[-1].offset + found.members[-1].size if found.members else 0
        return found._replace(damage=f"not readable as a tar after byte {last} ({error})")


def _headers(tar: tarfile.TarFile, path: Path, found: Scan) -> Scan:
    """Added to what was found, one by one, so that what stands before an unreadable one is kept."""
    size = path.stat().st_size
    while (entry := tar.next()) is not None:
        if entry.offset_data + entry.size > size:
            damage = f"cut short at byte {size}, inside member '{entry.name}'"
            return found._replace(damage=damage, cut=entry.name)
        if not _encodable(entry.name):
            found.refused.append((ascii(entry.name), "the name is not UTF-8"))
        elif entry.isfile() and not entry.issparse():
            found.members.append(TarMember(entry.name, entry.offset_data, entry.size))
        elif not entry.isdir():
            found.refused.append((entry.name, "not a plain file (a link, device or sparse file)"))
    return found._replace(damage=_end_damage(path, tar.offset, size))


def _encodable(name: str) -> bool:
    # tarfile hands undecodable bytes on as lone surrogates
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _end_damage(path: Path, offset: int, size: int) -> str:
    """What stands where tarfile saw the end: it must be a block of zeros, and nothing but zeros after it."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            return f"cut short at byte {size}: the end-of-archive mark is missing"
        if any(block):
            return f"damaged header at byte {offset}"
        while block := file.read(LOOK):
            if any(block):
                return f"more data after the end-of-archive mark at byte {offset} (tars joined without -A?)"
    return ""
