"""`mmpt units label`: the unit of every frame of a data set, as a data set of its own, joined by key."""

import shutil
from pathlib import Path

import numpy as np
from rich.console import Console

from mmpt.data.codebook import Codebook
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.schema import declare
from mmpt.data.shard import write_atomically
from mmpt.data.unit_labels import FIELD
from mmpt.data.writer import ShardWriter
from mmpt.downstream.units.corpus import Frames, rows_with
from mmpt.downstream.units.features import FrameFeatures
from mmpt.downstream.units.given import open_given
from mmpt.downstream.units.quality import Tally, UnitQuality
from mmpt.downstream.units.ranks import written_once
from mmpt.errors import DataError

QUALITY = "quality.json"


def label_data(
    codebook: Codebook,
    features: FrameFeatures,
    data: str | Path,
    out: str | Path,
    *,
    against: str | None = None,
    samples_per_shard: int = 10_000,
    workers: int = 0,
    console: Console | None = None,
) -> tuple[Manifest, UnitQuality]:
    """Write `out`: for every sample of every split that has the stream, its units, with the sample's key and split.

    Beside them stands `quality.json`, what the units are worth in all and each by itself. Killed, the same call goes on
    with the shards that are not there yet. Under a launcher the ranks share the work, and rank 0 writes.

    Args:
        codebook: what frames are compared with.
        features: the codebook's.
        data: the data set.
        out: new folder, or one that the same call left half-built.
        against: a label of the samples, or a field with a label of each frame, that purity and PNMI are told of.
        samples_per_shard: of the labels' data set.
        workers: processes that compute features; 0: this one.
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
    given = open_given(manifest, rows, against) if against else None
    keys, groups, splits = (manifest.column(name) for name in ("key", "group", "split"))
    kept = np.uint16 if codebook.clusters <= np.iinfo(np.uint16).max else np.int32
    tally = Tally(codebook.clusters)
    fields = {FIELD: declare(FIELD, "npy", **codebook.facts)}
    frames = Frames(features, manifest, rows, workers=workers, console=console, title="labels")
    writer = ShardWriter(out, fields, samples_per_shard=samples_per_shard)
    with written_once(frames.ranks, writer) as mine:
        for row, own in frames:
            units = codebook.assign(own)
            tally.add(units, given.of(row, len(units), codebook.rate) if given else None)
            if mine is not None:
                marks = {"__key__": str(keys[row]), "__group__": str(groups[row]), "__split__": str(splits[row])}
                mine.write({FIELD: units.astype(kept), **marks})
        quality = tally.quality(codebook.rate)
        if mine is not None:
            write_atomically(Path(out) / QUALITY, quality.to_json())
    return load_manifest(out), quality


def is_labelled(out: Path, codebook: Codebook) -> bool:
    """Whether a folder holds finished labels of this very codebook; what it holds of another is removed."""
    if not (out / "manifest.json").exists():
        return False
    if load_manifest(out).fields[FIELD].facts.get("codebook") == codebook.hash:
        return True
    shutil.rmtree(out)
    return False
