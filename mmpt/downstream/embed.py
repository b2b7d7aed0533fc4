"""`mmpt embed`: the features of every sample of a data set, streamed to Parquet."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.encoder import Encoder, Pooling, PoolName, load, weights_sha256
from mmpt.downstream.fields import check_fields
from mmpt.downstream.tables import check_table
from mmpt.errors import ConfigError, DataError

ROWS = 4096  # samples of a part: what a stop may cost


def embed(
    run: str | Path,
    data: str | Path,
    out: Path,
    *,
    streams: Sequence[str] | None = None,
    pool: PoolName | Pooling | None = None,
    console: Console | None = None,
) -> int:
    """Write a table of `key`, `split` and `features` (a list of float32 a sample); returns the number of samples.

    Finished parts lie in `.OUT.parts` until all are there; stopped, the same call goes on with the rest. Memory does
    not grow with the data set.

    Args:
        run: of pretraining or fine-tuning.
        data: the data set.
        out: a `.parquet` file that is not there yet.
        streams: by default all of the run's that the data set has.
        pool: see `Encoder.encode`; None is the run's own where it was trained with one, else the mean. A function has
            to be of the run's own weights.
        console: shows progress; None is quiet.

    Raises:
        ConfigError: a pool that there is not. DataError: another ending, a file that is there, streams that don't fit,
            or unreadable samples.
    """
    check_table(out, ".parquet")
    encoder, manifest = load(run), load_manifest(data)
    pool = pool or ("mean" if encoder.own is None else "own")
    used = [name for name in streams or encoder.modalities if streams or name in manifest.fields]
    if not used:
        there = ", ".join(manifest.fields)
        raise DataError(f"{manifest.folder}: has the fields {there}, none of {', '.join(encoder.modalities)}")
    check_fields("the run", encoder.modalities, manifest, used)
    has_any = np.any([manifest.column(f"{name}.offset") >= 0 for name in used], axis=0)
    rows = np.flatnonzero(has_any)
    if not len(rows):
        raise DataError(f"{manifest.folder}: no sample has {' or '.join(used)}")
    parts = out.with_name(f".{out.name}.parts")
    _prepare(parts, encoder, Path(run), manifest, used, pool)
    starts = range(0, len(rows), ROWS)
    reader = Reader(manifest, used)
    for start in track(starts, "embedding", console=console) if console and console.is_terminal else starts:
        part = parts / f"{start:012d}.parquet"
        if not part.exists():
            with _nothing_left(parts):
                _write_part(part, encoder, manifest, reader, rows[start : start + ROWS], pool)
    reader.close()
    _join(parts, out)
    return len(rows)


@contextmanager
def _nothing_left(parts: Path) -> Iterator[None]:
    """Of a try that failed before its first part; finished ones are kept, to go on with."""
    try:
        yield
    except (ConfigError, DataError):
        if not any(parts.glob("*.parquet")):
            shutil.rmtree(parts)
        raise


def _prepare(
    parts: Path, encoder: Encoder, run: Path, manifest: Manifest, used: Sequence[str], pool: str | Pooling
) -> None:
    """The parts of an earlier try are kept if they are of the same weights and data, and made anew if not."""
    facts = [weights_sha256(encoder, run), manifest.fingerprint(), list(used), pool if isinstance(pool, str) else "own"]
    mark = parts / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    if not mark.exists():
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        mark.touch()


def _write_part(
    part: Path,
    encoder: Encoder,
    manifest: Manifest,
    reader: Reader,
    rows: np.ndarray,
    pool: PoolName | Pooling,
) -> None:
    features = encoder.encode((reader.read(int(row)) for row in rows), pool=pool).numpy()
    table = pa.table(
        {
            "key": pa.array([str(key) for key in np.asarray(manifest.column("key"), dtype=object)[rows]]),
            "split": pa.array([str(split) for split in np.asarray(manifest.column("split"), dtype=object)[rows]]),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1]),
        }
    )
    staged = part.with_suffix(".staged")
    pq.write_table(table, staged)
    staged.replace(part)


def _join(parts: Path, out: Path) -> None:
    files = sorted(parts.glob("*.parquet"))
    staged = out.with_name(f".{out.name}.staged")
    with pq.ParquetWriter(staged, pq.read_schema(files[0])) as writer:
        for file in files:
            writer.write_table(pq.read_table(file))
    staged.replace(out)
    shutil.rmtree(parts)
