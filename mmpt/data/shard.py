"""One shard in the making: written under a hidden name, published by rename; its rows wait for the manifest."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from mmpt.data.encode import Member
from mmpt.data.manifest import Shard, sha256_of
from mmpt.errors import DataError

BLOCK = 512  # a tar's header, and what contents are padded to
MAX_NAME = 100  # bytes of a member's name in a plain (USTAR) header
KEPT_REJECTIONS = 1000
KEPT_NOTES = 5  # of a kind
Counts = Sequence[int] | Mapping[int, int]  # integers, or those at some places
UNFIT = re.compile(r"[.\s/\\\x00-\x1f\x7f]")


@dataclass
class Part:
    """What one shard adds to the manifest; a shard without a good sample has no tar.

    Args:
        rows: one dict a sample, as `sample_table` takes them.
        rejected: the first inputs that were left out, with the reason.
        rejections: how many were.
        tally: integer sums over the training split.
        observed: integers of every sample, for medians.
        notes: by kind, the first inputs that were changed or lack something, a sentence each.
    """

    shard: Shard | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    rejections: int = 0
    tally: dict[str, list[int]] = field(default_factory=dict)
    observed: dict[str, list[int]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def reject(self, place: str, reason: str) -> None:
        """Note an input that is left out."""
        self.rejections += 1
        if len(self.rejected) < KEPT_REJECTIONS:
            self.rejected.append({"input": _printable(place), "reason": _printable(reason)})

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep sentences about inputs; a recording that is cut says the same in each of its pieces."""
        for kind, told in notes.items():
            own, told = self.notes.setdefault(kind, []), _printable(told)
            if told not in own and len(own) < KEPT_NOTES:
                own.append(told)

    def add_tally(self, tally: Mapping[str, Counts]) -> None:
        """Add integers to the sums; integers, so that the order of adding can't matter."""
        for name, values in tally.items():
            sums = self.tally.setdefault(name, [])
            own = values if isinstance(values, Mapping) else dict(enumerate(values))
            sums.extend([0] * (max(own, default=-1) + 1 - len(sums)))
            for index, value in own.items():
                sums[index] += value


class ShardFile:
    """A tar that samples are added to; `publish` gives it its name, anything else leaves no trace of it."""

    def __init__(self, folder: Path, building: Path, number: int) -> None:
        from webdataset.writer import TarWriter  # pulls in torch: only when a tar is written

        self.name = shard_name(number)
        self.part = Part()
        self.bytes = 0
        self._target = folder / self.name
        # two processes may hold the same shard for a moment, when an orphan of a killed build dies late
        self._staged = building / f"{self.name}.{os.getpid()}"
        self._rows = building / f"{self.name}.json"
        self._file = self._staged.open("wb")
        self._tar = TarWriter(self._file, user="mmpt", group="mmpt", mode=0o644, mtime=0, encoder=False)

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk, reported already
            self._tar.close()
        with suppress(OSError):
            self._file.close()
        self._staged.unlink(missing_ok=True)

    def add(self, key: str, members: Mapping[str, Member], group: str, split: str) -> None:
        """Write one sample; raises DataError for a key that a tar can't hold."""
        check_key(key, members.values())
        row: dict[str, Any] = {"key": key, "group": group, "split": split}
        for name, member in sorted(members.items(), key=lambda item: item[1].ending):
            self._place(row, name, member)
        self._tar.write({"__key__": key} | {member.ending: member.data for member in members.values()})
        self.part.rows.append(row)

    def _place(self, row: dict[str, Any], name: str, member: Member) -> None:
        """Note where the member's data will lie; TarWriter writes members in the order of their endings."""
        row[f"{name}.offset"] = self.bytes + BLOCK
        row[f"{name}.size"] = len(member.data)
        row[f"{name}.crc32"] = crc32(member.data)
        row[f"{name}.length"] = member.length
        self.bytes += BLOCK + -(-len(member.data) // BLOCK) * BLOCK

    def publish(self) -> Part:
        """Make the shard and its rows permanent: rows first, so that a tar with a name always has them."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self.part.rows:
            size, digest = self._staged.stat().st_size, sha256_of(self._staged)
            self.part.shard = Shard(self.name, size, digest, len(self.part.rows))
        write_atomically(self._rows, json.dumps(_plain(self.part), ensure_ascii=False))
        if self.part.rows:
            self._staged.replace(self._target)
            sync_folder(self._target.parent)
        return self.part


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:06d}.tar"


def finished_part(folder: Path, building: Path, number: int) -> Part | None:
    """The part of a shard that an earlier run published, None if it has to be made."""
    rows = building / f"{shard_name(number)}.json"
    if not rows.exists():
        return None
    plain = json.loads(rows.read_text(encoding="utf-8"))
    shard = Shard(**plain["shard"]) if plain["shard"] else None
    if shard:
        with suppress(FileNotFoundError):
            if (folder / shard.name).stat().st_size == shard.size:
                return Part(**plain | {"shard": shard})
        return None
    return Part(**plain)


def check_key(key: str, members: Iterable[Member] = ()) -> None:
    """Raises DataError for a key that would be cut, split or lost on its way through a tar."""
    if not isinstance(key, str) or not key:
        raise DataError(f"a key is a non-empty str, got {key!r}")
    if found := UNFIT.search(key):
        raise DataError(
            f"key {key!r} has {found.group()!r} at {found.start()}; dots, slashes, white space and control "
            "characters would break the grouping of members, replace them"
        )
    longest = max((len(member.ending) for member in members), default=0)
    size = len(key.encode("utf-8", "replace")) + 1 + longest
    if len(key) > MAX_NAME or size > MAX_NAME:
        raise DataError(f"key {key!r} makes a member name of {size} bytes; a plain tar holds {MAX_NAME}, shorten it")
    if not key.isprintable():
        raise DataError(f"key {key!r} has characters that can't be printed; replace them")


def write_atomically(path: Path, text: str) -> None:
    """The file appears whole and on disk, or not at all."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder permanent."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _printable(text: str) -> str:
    # file names that are not UTF-8 come as lone surrogates, which no JSON file can hold
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(part: Part) -> dict[str, Any]:
    return vars(part) | {"shard": vars(part.shard) if part.shard else None}
