"""`mmpt build images`: a folder or zip of pictures, with captions and labels, -> shards."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from mmpt.data.builders.files import FileRecord, read_file, source_files
from mmpt.data.builders.parallel import Draft, build_shards, check_work
from mmpt.data.builders.pictures import picture_records
from mmpt.data.builders.progress import Progress
from mmpt.data.builders.steps import finish, input_marks, make_tokenizer
from mmpt.data.building import Building
from mmpt.data.decode import open_picture
from mmpt.data.encode import Member, encode
from mmpt.data.manifest import Manifest
from mmpt.data.schema import Field, declare
from mmpt.data.shard import Part
from mmpt.data.split import Shares, check_shares, split_of
from mmpt.data.tokenizer import FOLDER, read_tokenizer, tokenizer_facts
from mmpt.data.writer import DEFAULT_SHARES, SHARD_BYTES
from mmpt.errors import DataError

IMAGE = declare("image", ("png", "jpg", "jpeg", "webp"))
TEXT = declare("text", "txt")
LABELS = declare("labels", "json")
LEVELS = 255  # of a channel
BLANK = (None, "")


@dataclass(frozen=True)
class PictureMaker:
    """Record -> sample, in any process.

    Args:
        size: pixels of the shorter side after shrinking; None keeps the file's bytes.
        tokenizer_folder: None where there are no captions.
    """

    size: int | None
    tokenizer_folder: Path | None

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        return read_tokenizer(self.tokenizer_folder) if self.tokenizer_folder else None

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, "tokenizer_folder": self.tokenizer_folder}

    def __call__(self, record: FileRecord) -> Draft:
        data = read_file(record)
        picture, ending = open_picture(data)
        if self.size and min(picture.size) > self.size:
            picture = shrink(picture, self.size)
            members = {"image": encode(declare("image", ending), picture)}
        else:
            members = {"image": Member(ending, data, 1)}
        caption = record.row.get("caption")
        if self.tokenizer and caption not in BLANK:
            members["text"] = encode(TEXT, caption, self.tokenizer)
        members["labels"] = encode(LABELS, labels_of(record))
        observed = {"width": picture.width, "height": picture.height}
        return Draft(members, group_of(record), pixel_sums(picture), observed)


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
    check_work((samples_per_shard, shard_bytes), processes)
    tables = list(dict.fromkeys(Path(table) for table in (captions, labels) if table))
    rejected, shares = Part(), check_shares(split)
    records = picture_records(Path(source), tables, rejected)
    plan = {
        "builder": "images",
        "source": str(source),
        "captions": str(captions) if captions else None,
        "labels": str(labels) if labels else None,
        "tokenizer": str(tokenizer) if tokenizer else {"vocabulary": vocabulary, "algorithm": algorithm},
        "size": size,
        "limits": [samples_per_shard, shard_bytes],
        "split": list(shares),
        "inputs": input_marks([*tables, *source_files(records)]),
    }
    with Building(Path(out), plan) as building:
        if building.complete:
            return building.tidy()
        fields = {"image": IMAGE, "labels": LABELS}
        folder = building.folder / FOLDER if captions else None
        if folder and not folder.exists():
            texts = TrainingCaptions(records, shares)
            make_tokenizer(building, folder, texts, tokenizer, vocabulary=vocabulary, algorithm=algorithm)
        if folder:
            fields["text"] = Field("text", "text", ("txt",), tokenizer_facts(folder))
        with Progress("pictures", len(records), shown=progress) as shown:
            parts = build_shards(
                building,
                records,
                PictureMaker(size, folder),
                limits=(samples_per_shard, shard_bytes),
                shares=shares,
                processes=processes,
                progress=shown,
            )
        return finish(building, fields, parts, {"image": picture_statistics(parts)}, rejected)


class TrainingCaptions:
    """The captions of the training split, one by one."""

    def __init__(self, records: Sequence[FileRecord], shares: Shares) -> None:
        self.bad, self.good, self.training = Part(), 0, 0
        self._records, self._shares = records, shares

    def __iter__(self) -> Iterator[str]:
        for record in self._records:
            caption = record.row.get("caption")
            if isinstance(caption, str) and caption.strip():
                self.good += 1
                if split_of(group_of(record), self._shares) == "train":
                    self.training += 1
                    yield caption
        if not self.good:
            self.bad.reject("captions", "no picture has a caption")


def labels_of(record: FileRecord) -> dict[str, Any]:
    """The file's name and the row's columns; without a label, the first sub-folder's name is one."""
    values = {key: value for key, value in record.row.items() if key not in ("caption", "group")}
    above = PurePosixPath(record.name).parts[:-1]
    if "label" not in values and above:
        values["label"] = above[0]
    return {"file": record.name} | values


def group_of(record: FileRecord) -> str:
    """What keeps pictures in one split."""
    group = record.row.get("group")
    return PurePosixPath(record.name).stem if group in BLANK else str(group)


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
