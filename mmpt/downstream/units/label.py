"""`mmpt units label`: the unit of every frame of a data set, as a data set of its own, joined by key."""

import shutil
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from mmpt.data.codebook import Codebook
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.data.schema import declare
from mmpt.data.unit_labels import FIELD
from mmpt.data.writer import ShardWriter
from mmpt.downstream.units.corpus import frames_of, rows_with
from mmpt.downstream.units.features import FrameFeatures
from mmpt.downstream.units.quality import Tally, UnitQuality
from mmpt.errors import DataError


def label_data(
    codebook: Codebook,
    features: FrameFeatures,
    data: str | Path,
    out: str | Path,
    *,
    against: str | None = None,
    samples_per_shard: int = 10_000,
    console: Console | None = None,
) -> tuple[Manifest, UnitQuality]:
    """Write `out`: for every sample of every split that has the stream, its units, with the sample's key and split.

    Killed, the same call goes on with the shards that are not there yet.

    Args:
        codebook: what frames are compared with.
        features: the codebook's.
        data: the data set.
        out: new folder, or one that the same call left half-built.
        against: a label of the samples that purity and PNMI are told of.
        samples_per_shard: of the labels' data set.
        console: shows progress; None is quiet.

    Raises:
        DataError: features of another kind than the codebook's, samples that can't be read, a folder in use.
    """
    if dict(features.settings) != dict(codebook.features) or features.stream != codebook.stream:
        raise DataError(
            f"the codebook is of {codebook.stream}, {dict(codebook.features)}, and these features are of "
            f"{features.stream}, {dict(features.settings)}; take those that it was fitted to"
        )
    manifest = load_manifest(data)
    rows = rows_with(manifest, codebook.stream, None)
    given = _labels(manifest, rows, against) if against else {}
    keys, groups, splits = (manifest.column(name) for name in ("key", "group", "split"))
    kept = np.uint16 if codebook.clusters <= np.iinfo(np.uint16).max else np.int32
    tally = Tally(codebook.clusters)
    fields = {FIELD: declare(FIELD, "npy", **codebook.facts)}
    frames = frames_of(features, manifest, rows)
    shown = track(frames, "labels", len(rows), console=console, transient=True) if console else frames
    with ShardWriter(out, fields, samples_per_shard=samples_per_shard) as writer:
        for row, own in shown:
            units = codebook.assign(own)
            tally.add(units, given.get(row))
            marks = {"__key__": str(keys[row]), "__group__": str(groups[row]), "__split__": str(splits[row])}
            writer.write({FIELD: units.astype(kept), **marks})
    if writer.manifest is None:
        raise DataError(f"{out}: the labels were not finished")
    return writer.manifest, tally.quality(codebook.rate)


def _labels(manifest: Manifest, rows: list[int], name: str) -> dict[int, str]:
    fields = [field for field, own in manifest.fields.items() if own.kind == "json"]
    if not fields:
        raise DataError(f"{manifest.folder}: has no JSON field that a label '{name}' could stand in")
    reader, found = Reader(manifest, fields[:1]), {}
    present = manifest.column(f"{fields[0]}.offset") >= 0
    for row in rows:
        value = reader.read(row)[fields[0]].get(name) if present[row] else None
        if value is not None:
            found[row] = str(value)
    reader.close()
    if not found:
        raise DataError(f"{manifest.folder}: no sample has a label '{name}'")
    return found


def is_labelled(out: Path, codebook: Codebook) -> bool:
    """Whether a folder holds finished labels of this very codebook; what it holds of another is removed."""
    if not (out / "manifest.json").exists():
        return False
    if load_manifest(out).fields[FIELD].facts.get("codebook") == codebook.hash:
        return True
    shutil.rmtree(out)
    return False
