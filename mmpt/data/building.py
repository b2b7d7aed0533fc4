"""A data folder while it is being built: one builder at a time, resumable, and nothing half-written in sight."""

import fcntl
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmpt.data.manifest import Manifest, load_manifest, sample_table, save_manifest
from mmpt.data.schema import Field
from mmpt.data.shard import KEPT_REJECTIONS, Part, finished_part, sync_folder, write_atomically
from mmpt.data.split import SPLITS
from mmpt.errors import DataError

HIDDEN = ".building"


class Building:
    """Holds `folder/.building` while open.

    Args:
        folder: the data set's folder; made if need be.
        plan: plain values that decide the result; a half-finished folder of another plan is refused.

    Raises:
        DataError: the folder is finished, belongs to another plan, has other files, or is being built right now.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder, self.hidden = folder, folder / HIDDEN
        self._plan = json.loads(json.dumps(plan, sort_keys=True))
        self.complete = False
        if not self.hidden.exists():
            _refuse_used(folder)
            try:
                self.hidden.mkdir(parents=True)
            except OSError as error:
                raise DataError(f"{folder}: can't be made ({error.strerror})") from error
        self._lock = (self.hidden / "lock").open("w")
        try:
            self._take()
        except BaseException:
            self._lock.close()
            raise

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{self.folder}: another process is building in this folder; wait for it") from error
        note = self.hidden / "plan.json"
        if not note.exists():
            write_atomically(note, json.dumps(self._plan, ensure_ascii=False))
        begun = json.loads(note.read_text(encoding="utf-8"))
        if begun != self._plan:
            changed = sorted(
                name for name in begun.keys() | self._plan.keys() if begun.get(name) != self._plan.get(name)
            )
            raise DataError(
                f"{self.folder}: half-built with other {', '.join(changed)}; run the first command again to finish it, "
                "or remove the folder"
            )
        # killed between writing the manifest and tidying up: all the work is done
        self.complete = (self.folder / "manifest.json").exists()

    def __enter__(self) -> "Building":
        return self

    def __exit__(self, kind: type[BaseException] | None = None, error: BaseException | None = None, *_: object) -> None:
        self._lock.close()
        if isinstance(error, OSError):  # a full disk, for example: the finished shards stay
            raise DataError(f"{self.folder}: {error}; mend that and run the same again to go on") from error

    def finished(self, number: int) -> Part | None:
        """What an earlier run left of a shard."""
        return finished_part(self.folder, self.hidden, number)

    def finish(
        self,
        fields: Mapping[str, Field],
        parts: Sequence[Part],
        *,
        statistics: Mapping[str, Any],
        rejected: Part,
    ) -> Manifest:
        """Write the manifest from all parts, in the order of their numbers, and tidy up.

        Args:
            fields: the schema.
            parts: one a shard.
            statistics: by field, merged with lengths and counts.
            rejected: inputs that were left out before any shard was made.
        """
        manifest = assemble(self.folder, fields, parts, statistics=statistics, rejected=rejected, origin=self._origin())
        save_manifest(manifest)
        sync_folder(self.folder)
        self.tidy()
        return manifest

    def _origin(self) -> dict[str, Any]:
        # sizes and times of the inputs guard a resumed build; in the manifest they would differ from copy to copy
        return {name: value for name, value in self._plan.items() if name != "inputs"}

    def tidy(self) -> Manifest:
        """Remove what only a build needs; gives the finished manifest."""
        manifest = load_manifest(self.folder)
        shutil.rmtree(self.hidden)
        return manifest

    def discard(self) -> None:
        """Leave nothing behind of a build that has nothing good."""
        shutil.rmtree(self.hidden, ignore_errors=True)
        shutil.rmtree(self.folder / "tokenizer", ignore_errors=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def assemble(
    folder: Path,
    fields: Mapping[str, Field],
    parts: Sequence[Part],
    *,
    statistics: Mapping[str, Any],
    rejected: Part,
    origin: Mapping[str, Any],
) -> Manifest:
    """The manifest of all parts; raises DataError if there is not one good sample."""
    if not any(part.rows for part in parts):
        raise DataError(nothing_good([rejected, *parts]))
    made = [part for part in parts if part.shard]
    table = sample_table([row | {"shard": number} for number, part in enumerate(made) for row in part.rows], fields)
    reasons = [entry for part in (rejected, *parts) for entry in part.rejected][:KEPT_REJECTIONS]
    counts = {"rejected": sum(part.rejections for part in (rejected, *parts)), "splits": split_counts(table)}
    merged = {name: length_statistics(table, name) | dict(statistics.get(name, {})) for name in fields}
    shards = tuple(part.shard for part in made if part.shard)
    return Manifest(folder, fields, shards, table, merged | counts, tuple(reasons), origin)


def nothing_good(parts: Sequence[Part]) -> str:
    """The sentence for a build without a single good sample."""
    count = sum(part.rejections for part in parts)
    first = next((entry for part in parts for entry in part.rejected), None)
    why = f"; the first of {count} bad ones: {first['input']}: {first['reason']}" if first else ""
    return f"there is not one good sample in the input, nothing was written{why}"


def length_statistics(table: pa.Table, name: str) -> dict[str, Any]:
    """Samples that have the field, and how long they are."""
    present = table.column(f"{name}.offset").to_numpy() >= 0
    lengths = table.column(f"{name}.length").to_numpy()[present]
    sizes = table.column(f"{name}.size").to_numpy()[present]
    if not len(lengths):
        return {"samples": 0, "bytes": 0}
    low, middle, high, top = (int(x) for x in np.percentile(lengths, [0, 50, 95, 100], method="inverted_cdf"))
    length = {"total": int(lengths.sum()), "min": low, "median": middle, "p95": high, "max": top}
    return {"samples": int(present.sum()), "bytes": int(sizes.sum()), "length": length}


def split_counts(table: pa.Table) -> dict[str, int]:
    """Samples of every split."""
    column = table.column("split").to_pylist()
    return {name: column.count(name) for name in (*SPLITS, *sorted(set(column) - set(SPLITS)))}


def _refuse_used(folder: Path) -> None:
    if (folder / "manifest.json").exists():
        raise DataError(f"{folder}: there is a data set already; choose another --out or remove it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: not an empty folder; choose another --out or empty it")
