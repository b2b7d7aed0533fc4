"""`mmpt build video`: animations, films and folders of numbered frames, with captions and labels, -> shards."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from mmpt.data.builders.clips import ClipRecord, clip_records
from mmpt.data.builders.files import distinct
from mmpt.data.builders.images import picture_statistics, pixel_sums, shrink
from mmpt.data.builders.moving import FrameReader
from mmpt.data.builders.parallel import Draft
from mmpt.data.builders.steps import Work, build_data_set, path_of
from mmpt.data.builders.texts import LABELS, TrainingTexts, text_members
from mmpt.data.encode import encode
from mmpt.data.manifest import Manifest
from mmpt.data.schema import declare
from mmpt.data.shard import Part
from mmpt.data.split import Shares
from mmpt.data.writer import DEFAULT_SHARES, SHARD_BYTES
from mmpt.errors import DataError

STORAGES = ("mjpeg", "apng")


@dataclass(frozen=True)
class ClipMaker:
    """Record -> sample, in any process.

    Args:
        size: pixels of the shorter side after shrinking; None keeps the frames' own.
        storage: ending of the members.
        tokenizer_folder: None where there are no captions.
    """

    size: int | None
    storage: str
    tokenizer_folder: Path | None

    @cached_property
    def frames(self) -> FrameReader:
        return FrameReader()

    def __call__(self, record: ClipRecord) -> Draft:
        frames, file = self.frames.read(record.video, record.start, record.stop), record.video.file
        if self.size and min(frames[0].size) > self.size:
            frames = [shrink(frame, self.size) for frame in frames]
        clip = np.stack([np.asarray(frame) for frame in frames])
        texts, tokens = text_members(file.row.get("caption"), self.tokenizer_folder)
        position = {"part": record.part, "frame": record.start} if record.parts > 1 else {}
        members = {"video": encode(declare("video", self.storage), clip), **texts}
        members["labels"] = encode(LABELS, file.labels("caption") | position)
        sums = [pixel_sums(frame) for frame in frames]
        tally = {name: np.sum([own[name] for own in sums], axis=0).tolist() for name in sums[0]}
        observed = {"width": clip.shape[2], "height": clip.shape[1], "frames": len(clip)}
        return Draft(members, file.group, tally | tokens, observed)


def build_video(
    source: str | Path,
    out: str | Path,
    *,
    captions: str | Path | None = None,
    labels: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vocabulary: int = 8192,
    algorithm: str = "bpe",
    frames: int = 64,
    size: int | None = None,
    storage: str = "mjpeg",
    processes: int = 1,
    samples_per_shard: int = 1000,
    shard_bytes: int = SHARD_BYTES,
    split: Shares = DEFAULT_SHARES,
    progress: bool = False,
) -> Manifest:
    """Build a data set of clips; run again after a kill, it goes on where it stopped.

    Args:
        source: a folder (searched to the bottom) or a .zip of animated gif, png, apng and webp files, mjpeg files,
            numbered pictures (walk/0001.png, walk/0002.png ...: one video, `walk`), and with the package PyAV mp4, mov,
            mkv, webm and avi films. A frame of an animation that is shown longer than the shortest counts as often; one
            of a film counts once.
        out: new or empty folder, or one that the same call left half-built.
        captions: .csv or .jsonl with columns `file` (path below the source, or a name) and `caption`, perhaps `group`.
        labels: .csv or .jsonl with columns `file` and `label`, perhaps `group`; may be the captions file. Other columns
            are kept in `labels`. Without it, the first sub-folder's name is the label.
        tokenizer: for captions: a local transformers tokenizer folder; None trains one on the training split.
        vocabulary: of a trained tokenizer.
        algorithm: `bpe` or `wordpiece`.
        frames: a longer video is cut into clips of about equal length and at most so many frames; clips are samples of
            one group whose labels have `part` (from 1) and `frame` (the first, from 0).
        size: shrink so that the shorter side has so many pixels (never enlarge); None keeps the frames' own.
        storage: of the samples: `mjpeg`, JPEG pictures of quality 95, or the lossless `apng`.
        processes: how many work; the result does not depend on it.
        samples_per_shard: inputs a shard at most, bad ones included.
        shard_bytes: bytes of input a shard at most.
        split: shares of train, validation and test among groups (without a `group` column, a file's stem is its group).
        progress: say on stderr how far it is.

    Raises:
        DataError: sources, settings or folder can't be used, or there is no good video.
    """
    work = Work(
        out, tokenizer, vocabulary, algorithm, (samples_per_shard, shard_bytes), processes, split, shown=progress
    )
    _check_settings(frames, size, storage)
    tables, rejected, place = distinct(captions, labels), Part(), Path(source)
    records = clip_records(place, tables, frames, rejected)
    plan = {
        "builder": "video",
        "source": str(source),
        "captions": path_of(captions),
        "labels": path_of(labels),
        "frames": frames,
        "size": size,
        "storage": storage,
    }
    texts = TrainingTexts(
        lambda: ((record.video.file.row.get("caption"), record.video.file.group) for record in records),
        work.shares,
        "captions",
        "no video has a caption",
    )
    return build_data_set(
        work,
        plan,
        [*tables, *sorted({path for record in records for path in _files_of(record, place)})],
        records,
        partial(ClipMaker, size, storage),
        texts=texts if captions and records else None,
        fields={"video": declare("video", storage)},
        statistics=lambda parts: {"video": picture_statistics(parts)},
        rejected=rejected,
        what="clips",
    )


def _check_settings(frames: int, size: int | None, storage: str) -> None:
    if frames < 3:  # or what is left over could be a single one
        raise DataError(f"frames must be at least 3, got {frames}")
    if size is not None and size < 1:
        raise DataError(f"size must be at least 1 pixel, got {size}")
    if storage not in STORAGES:
        raise DataError(f"storage is {' or '.join(STORAGES)}, got '{storage}'")


def _files_of(record: ClipRecord, source: Path) -> list[Path]:
    """On disk: a zip is one file."""
    files = record.video.stills or (record.video.file,)
    return [source / file.name for file in files] if source.is_dir() else [source]


def summary_lines(manifest: Manifest) -> list[str]:
    """For people: the sizes of the clips."""
    own = manifest.statistics["video"]
    lines = [f"{side} {own[side]['min']} to {own[side]['max']} pixels" for side in ("width", "height")]
    return [f"clips of {own['frames']['min']} to {own['frames']['max']} frames", *lines]
