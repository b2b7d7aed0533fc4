"""`mmpt build images`: a folder or zip of pictures, with captions and labels, -> shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmpt.data.builders.files import FileRecord, distinct, read_file, source_files
from mmpt.data.builders.parallel import Draft
from mmpt.data.builders.pictures import picture_records
from mmpt.data.builders.steps import Work, build_data_set, path_of
from mmpt.data.builders.texts import LABELS, TrainingTexts, text_members
from mmpt.data.decode import open_picture
from mmpt.data.encode import Member, encode
from mmpt.data.manifest import Manifest
from mmpt.data.schema import declare
from mmpt.data.shard import Part
from mmpt.data.split import Shares
from mmpt.data.writer import DEFAULT_SHARES, SHARD_BYTES
from mmpt.errors import DataError

IMAGE = declare("image", ("png", "jpg", "jpeg", "webp"))
LEVELS = 255  # of a channel


@dataclass(frozen=True)
class PictureMaker:
    """Record -> sample, in any process.

    Args:
        size: pixels of the shorter side after shrinking; None keeps the file's bytes.
        tokenizer_folder: None where there are no captions.
    """

    size: int | None
    tokenizer_folder: Path | None

    def __call__(self, record: FileRecord) -> Draft:
        data = read_file(record)
        picture, ending = open_picture(data)
        if self.size and min(picture.size) > self.size:
            picture = shrink(picture, self.size)
            members = {"image": encode(declare("image", ending), picture)}
        else:
            members = {"image": Member(ending, data, 1)}
        texts, tokens = text_members(record.row.get("caption"), self.tokenizer_folder)
        members |= texts | {"labels": encode(LABELS, record.labels("caption"))}
        observed = {"width": picture.width, "height": picture.height}
        return Draft(members, record.group, pixel_sums(picture) | tokens, observed)


def build_images(
    source: str | Path,
    out: str | Path,
    *,
    captions: str | Path | None = None,
    labels: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vocabulary: int = 8192,
    algorithm: str = "bpe",
    size: int | None = None,
    processes: int = 1,
    samples_per_shard: int = 1000,
    shard_bytes: int = SHARD_BYTES,
    split: Shares = DEFAULT_SHARES,
    progress: bool = False,
) -> Manifest:
    """Build a picture data set; run again after a kill, it goes on where it stopped.

    Args:
        source: a folder (searched to the bottom) or a .zip of png, jpg, jpeg and webp files.
        out: new or empty folder, or one that the same call left half-built.
        captions: .csv or .jsonl with columns `file` (path below the source, or a name) and `caption`, perhaps `group`.
        labels: .csv or .jsonl with columns `file` and `label`, perhaps `group`; may be the captions file. Other columns
            are kept in `labels`. Without it, the first sub-folder's name is the label.
        tokenizer: for captions: a local transformers tokenizer folder; None trains one on the training split.
        vocabulary: of a trained tokenizer.
        algorithm: `bpe` or `wordpiece`.
        size: shrink so that the shorter side has so many pixels (never enlarge); None keeps the files' own bytes.
        processes: how many work; the result does not depend on it.
        samples_per_shard: inputs a shard at most, bad ones included.
        shard_bytes: bytes of input a shard at most.
        split: shares of train, validation and test among groups (without a `group` column, a file's stem is its group).
        progress: say on stderr how far it is.

    Raises:
        DataError: sources, settings or folder can't be used, or there is no good picture.
    """
    if size is not None and size < 1:
        raise DataError(f"size must be at least 1 pixel, got {size}")
    work = Work(
        out, tokenizer, vocabulary, algorithm, (samples_per_shard, shard_bytes), processes, split, shown=progress
    )
    tables, rejected = distinct(captions, labels), Part()
    records = picture_records(Path(source), tables, rejected)
    plan = {
        "builder": "images",
        "source": str(source),
        "captions": path_of(captions),
        "labels": path_of(labels),
        "size": size,
    }
    texts = TrainingTexts(
        lambda: ((record.row.get("caption"), record.group) for record in records),
        work.shares,
        "captions",
        "no picture has a caption",
    )
    return build_data_set(
        work,
        plan,
        [*tables, *source_files(records)],
        records,
        partial(PictureMaker, size),
        texts=texts if captions else None,
        fields={"image": IMAGE},
        statistics=lambda parts: {"image": picture_statistics(parts)},
        rejected=rejected,
        what="pictures",
    )


def shrink(picture: Image.Image, size: int) -> Image.Image:
    """The shorter side becomes `size` pixels, the other keeps the proportion."""
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def pixel_sums(picture: Image.Image) -> dict[str, list[int]]:
    """Exact integers, so that mean and deviation do not depend on the order of adding."""
    counts = np.asarray(picture.histogram(), dtype=np.int64).reshape(3, LEVELS + 1)
    level = np.arange(LEVELS + 1, dtype=np.int64)
    return {
        "pixels": [picture.width * picture.height],
        "sum": (counts @ level).tolist(),
        "square": (counts @ level**2).tolist(),
    }


def picture_statistics(parts: Sequence[Part]) -> Mapping[str, Any]:
    """Mean and deviation a channel (values in [0, 1], all pixels of the training split), and sizes in pixels."""
    total, sizes = Part(), dict[str, list[int]]()
    for part in parts:
        total.add_tally(part.tally)
        for name, values in part.observed.items():
            sizes.setdefault(name, []).extend(values)
    statistics: dict[str, Any] = {
        name: {"min": min(values), "median": int(np.median(values)), "max": max(values)}
        for name, values in sizes.items()
    }
    if total.tally:
        count = total.tally["pixels"][0]
        mean = [value / count / LEVELS for value in total.tally["sum"]]
        pairs = zip(total.tally["square"], mean, strict=True)
        statistics["mean"] = mean
        statistics["std"] = [max(square / count / LEVELS**2 - m * m, 0.0) ** 0.5 for square, m in pairs]
    return statistics


def summary_lines(manifest: Manifest) -> list[str]:
    """For people: the sizes of the pictures."""
    own = manifest.statistics["image"]
    return [f"{side} {own[side]['min']} to {own[side]['max']} pixels" for side in ("width", "height")]
