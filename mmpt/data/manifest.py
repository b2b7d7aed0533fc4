"""The manifest beside the tars: schema, shards with checksums, and where every member lies.

`manifest.json` holds what is small, `manifest.parquet` one row a sample: `key`, `shard`, `group`, `split`, and for each
field `<field>.offset` (bytes into the tar, -1 where the sample has none), `<field>.size` (bytes), `<field>.crc32` and
`<field>.length` (text tokens, audio or array samples; 1 for a picture). Both are written before the name is published.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmpt.data.schema import Field
from mmpt.errors import DataError

VERSION = 1
COLUMNS = ("offset", "size", "crc32", "length")


@dataclass(frozen=True)
class Shard:
    """One tar: file name inside the folder, bytes, sha256 of the whole file, number of samples."""

    name: str
    size: int
    sha256: str
    samples: int


@dataclass(frozen=True)
class Manifest:
    """A data set, without its contents.

    Args:
        folder: where the tars lie.
        fields: by name.
        shards: in the order that `shard` numbers refer to.
        samples: the table, one row a sample, see the module's docstring.
        statistics: by field, whatever the builder measured.
        rejected: inputs that were left out: `{"input": ..., "reason": ...}`.
        origin: how it was built (the command's settings), for people.
    """

    folder: Path
    fields: Mapping[str, Field]
    shards: tuple[Shard, ...]
    samples: pa.Table
    statistics: Mapping[str, Any] = field(default_factory=dict)
    rejected: tuple[Mapping[str, str], ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.samples.num_rows

    def column(self, name: str) -> np.ndarray:
        """A column of `samples` as numbers (or as an object array of strings), one a sample; KeyError without it."""
        return self.samples.column(name).to_numpy(zero_copy_only=False)

    def lengths(self, field_name: str) -> np.ndarray:
        """Length of the field in every sample, int64 (samples); 0 where it is absent.

        In tokens of text (characters without a tokenizer), samples of sound, rows of an array, frames of a video; 1 of
        anything else.
        """
        present = self.column(f"{field_name}.offset") >= 0
        return np.where(present, self.column(f"{field_name}.length"), 0)

    def split_rows(self, split: str) -> np.ndarray:
        """Numbers of the samples of one split, int64, rising; raises DataError naming the splits there are."""
        column = np.asarray(self.column("split"), dtype=object)
        rows = np.flatnonzero(column == split)
        if len(rows) == 0:
            there = ", ".join(sorted(set(column))) or "none"
            raise DataError(f"{self.folder}: there is no split '{split}'; it has {there}")
        return rows

    def fingerprint(self) -> str:
        """A hash of the contents: shard checksums, member places and splits; not of where the folder lies."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.name} {shard.sha256}\n".encode())
        for name in sorted(self.samples.column_names):
            digest.update(name.encode())
            digest.update("\n".join(map(str, self.column(name))).encode())
        return digest.hexdigest()


def sample_table(rows: list[dict[str, Any]], fields: Mapping[str, Field]) -> pa.Table:
    """The table of samples from one dict a sample; a field that a sample lacks may be left out."""
    columns: dict[str, pa.Array] = {
        "key": pa.array([row["key"] for row in rows], pa.string()),
        "shard": pa.array([row["shard"] for row in rows], pa.int32()),
        "group": pa.array([row["group"] for row in rows], pa.string()),
        "split": pa.array([row["split"] for row in rows], pa.string()),
    }
    for name in fields:
        for column in COLUMNS:
            absent = -1 if column == "offset" else 0
            columns[f"{name}.{column}"] = pa.array([row.get(f"{name}.{column}", absent) for row in rows], pa.int64())
    return pa.table(columns)


def save_manifest(manifest: Manifest) -> None:
    """Write both files; each appears whole or not at all, the JSON last."""
    table = manifest.folder / "manifest.parquet"
    _publish(table, lambda path: pq.write_table(manifest.samples, path))
    plain = {
        "version": VERSION,
        "fields": [asdict(f) for f in manifest.fields.values()],
        "shards": [asdict(s) for s in manifest.shards],
        "samples": {"count": len(manifest), "sha256": sha256_of(table)},
        "statistics": dict(manifest.statistics),
        "rejected": list(manifest.rejected),
        "origin": dict(manifest.origin),
    }
    text = json.dumps(plain, indent=1, ensure_ascii=False) + "\n"
    _publish(manifest.folder / "manifest.json", lambda path: path.write_text(text, encoding="utf-8"))


def load_manifest(folder: str | Path) -> Manifest:
    """Read a folder's manifest; raises DataError with what to do where there is none or it is damaged."""
    folder = Path(folder)
    file = folder / "manifest.json"
    if not file.exists():
        tars = len(list(folder.glob("*.tar"))) if folder.is_dir() else 0
        advice = f"run 'mmpt index {folder}' to make one for its {tars} tars" if tars else "build it with 'mmpt build'"
        if (folder.parent / file.name).exists():
            advice = f"{folder.parent} is a data set, and all of it is read here: name that"
        raise DataError(f"{folder}: there is no manifest.json; {advice}")
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        fields = {f["name"]: Field(f["name"], f["kind"], tuple(f["members"]), f["facts"]) for f in plain["fields"]}
        shards = tuple(Shard(**shard) for shard in plain["shards"])
        version, expected = plain["version"], plain["samples"]["sha256"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not a manifest ({error!r}); run 'mmpt index {folder}'") from error
    if version != VERSION:
        raise DataError(f"{file}: manifest version {version}, this mmpt reads {VERSION}; run 'mmpt index {folder}'")
    table = folder / "manifest.parquet"
    if not table.exists() or sha256_of(table) != expected:
        raise DataError(
            f"{table}: missing or not the one that manifest.json was written with; run 'mmpt index {folder}'"
        )
    samples = pq.read_table(table, memory_map=False)
    return Manifest(folder, fields, shards, samples, plain["statistics"], tuple(plain["rejected"]), plain["origin"])


def sha256_of(path: Path) -> str:
    """Of a whole file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(path: Path, write: Any) -> None:
    staged = path.with_name(f".{path.name}.staged")
    write(staged)
    with staged.open("rb") as file:
        os.fsync(file.fileno())
    staged.replace(path)
