"""`mmpt build speech`: a folder or zip of recordings, with transcripts and labels, -> shards."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.data.builders.files import source_files
from mmpt.data.builders.parallel import Draft
from mmpt.data.builders.recordings import (
    TEXT_COLUMNS,
    SoundRecord,
    check_limit,
    first_rate,
    list_recordings,
    sound_records,
)
from mmpt.data.builders.sounds import Piece, PieceReader, count_quiet
from mmpt.data.builders.steps import Work, build_data_set, first_notes, indented_notes, path_of
from mmpt.data.builders.texts import LABELS, TrainingTexts, text_members
from mmpt.data.encode import encode
from mmpt.data.manifest import Manifest
from mmpt.data.schema import Field, declare
from mmpt.data.shard import Part
from mmpt.data.split import Shares
from mmpt.data.writer import DEFAULT_SHARES, SHARD_BYTES
from mmpt.errors import DataError

STORAGES = ("flac", "wav")
RATES = (1000, 192_000)  # Hz


@dataclass(frozen=True)
class SpeechMaker:
    """Record -> sample, in any process.

    Args:
        rate: of every sample, in Hz.
        storage: ending of the members.
        tokenizer_folder: None where there are no transcripts.
    """

    rate: int
    storage: str
    tokenizer_folder: Path | None

    @cached_property
    def read(self) -> PieceReader:
        return PieceReader(self.rate)

    def __call__(self, record: SoundRecord) -> Draft:
        piece = self.read(record.file, record.parts)[record.part - 1]
        if not piece.samples.any():
            raise DataError("silent: every sample is 0")
        field = declare("speech", self.storage)
        members, tokens = text_members(record.transcript, self.tokenizer_folder)
        position = {"part": record.part, "start": piece.start} if record.parts > 1 else {}
        members["speech"] = encode(field, (piece.samples, self.rate))
        members["labels"] = encode(LABELS, record.file.labels(*TEXT_COLUMNS) | position)
        notes = changes(record.file.place, piece, self.rate)
        return Draft(members, record.file.group, tokens, observed(record, piece, self.rate), notes)


def build_speech(
    source: str | Path,
    out: str | Path,
    *,
    transcripts: str | Path | None = None,
    labels: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vocabulary: int = 8192,
    algorithm: str = "bpe",
    sample_rate: int | None = None,
    max_seconds: float | None = None,
    storage: str = "flac",
    processes: int = 1,
    samples_per_shard: int = 1000,
    shard_bytes: int = SHARD_BYTES,
    split: Shares = DEFAULT_SHARES,
    progress: bool = False,
) -> Manifest:
    """Build a speech data set of mono 16-bit sound; run again after a kill, it goes on where it stopped.

    Args:
        source: a folder (searched to the bottom) or a .zip of wav, flac, ogg, opus and mp3 files; channels are
            averaged.
        out: new or empty folder, or one that the same call left half-built.
        transcripts: .csv or .jsonl with columns `file` (path below the source, or a name) and `text` or `transcript`,
            perhaps `group`. Where no table has transcripts, a .normalized.txt, .txt or .lab of a recording's name
            beside it is its transcript.
        labels: .csv or .jsonl with columns `file` and `label`, perhaps `group`; may be the transcripts file. Other
            columns are kept in `labels`. Without it, the first sub-folder's name is the label.
        tokenizer: for transcripts: a local transformers tokenizer folder; None trains one on the training split.
        vocabulary: of a trained tokenizer.
        algorithm: `bpe` or `wordpiece`.
        sample_rate: in Hz, what has another one is resampled; None takes the first readable recording's.
        max_seconds: longer recordings are cut into pieces of about equal length and at most this one, each at the
            quietest 20 ms within its last tenth; pieces are samples of one group whose labels have `part` (from 1) and
            `start` (seconds). A recording with a transcript is never cut: a long one is left out and listed. None cuts
            nothing.
        storage: of the samples: `flac` or `wav`.
        processes: how many work; the result does not depend on it.
        samples_per_shard: inputs a shard at most, bad ones included.
        shard_bytes: bytes of input a shard at most.
        split: shares of train, validation and test among groups (without a `group` column, a file's stem is its group).
        progress: say on stderr how far it is.

    Raises:
        DataError: sources, settings or folder can't be used, or there is no good recording.
    """
    work = Work(
        out, tokenizer, vocabulary, algorithm, (samples_per_shard, shard_bytes), processes, split, shown=progress
    )
    check_limit(max_seconds)
    check_storage(storage)
    rejected = Part()
    files, beside = list_recordings(
        Path(source), Path(transcripts) if transcripts else None, Path(labels) if labels else None, rejected
    )
    rate, rate_from = (sample_rate, "the setting") if sample_rate is not None else first_rate(files)
    check_rate(rate)
    records = sound_records(files, max_seconds, rejected)
    plan = {
        "builder": "speech",
        "source": str(source),
        "transcripts": path_of(transcripts),
        "labels": path_of(labels),
        "sample_rate": rate,
        "max_seconds": max_seconds,
        "storage": storage,
    }
    texts = TrainingTexts(
        lambda: ((record.transcript, record.file.group) for record in records),
        work.shares,
        "transcripts",
        "no recording has one",
    )
    return build_data_set(
        work,
        plan,
        [*beside, *source_files(files)],
        records,
        partial(SpeechMaker, rate, storage),
        texts=texts if transcripts or any(record.transcript for record in records) else None,
        fields={"speech": Field("speech", "audio", STORAGES, {"sample_rate": rate})},
        statistics=lambda parts: {"speech": sound_statistics(parts, rate) | {"rate_from": rate_from}},
        rejected=rejected,
        what="recordings",
    )


def check_storage(storage: str) -> None:
    """Raises DataError for a way to store that there is not."""
    if storage not in STORAGES:
        raise DataError(f"storage is {' or '.join(STORAGES)}, got '{storage}'")


def check_rate(rate: int) -> None:
    """Raises DataError for a rate that speech can't have."""
    low, high = RATES
    if not low <= rate <= high:
        raise DataError(f"sample_rate must be {low} to {high} Hz, got {rate}")


def changes(place: str, piece: Piece, rate: int) -> dict[str, str]:
    """What the stored sound has no longer, a sentence each."""
    notes = {}
    if piece.channels > 1:
        notes["stereo"] = f"{place}: {piece.channels} channels, averaged"
    if piece.rate != rate:
        notes["resampled"] = f"{place}: sampled at {piece.rate} Hz, not {rate}"
    return notes


def observed(record: SoundRecord, piece: Piece, rate: int) -> dict[str, int]:
    """Integers that the statistics are made of: sums and sets of them don't depend on any order."""
    quiet, windows = count_quiet(piece.samples, rate)
    return {
        "samples": len(piece.samples),
        "quiet": quiet,
        "windows": windows,
        "clipped": piece.clipped,
        "recording": record.number,
        "rate": piece.rate,
        "channels": piece.channels,
    }


def sound_statistics(parts: Sequence[Part], rate: int) -> dict[str, Any]:
    """Of all samples.

    Returns:
        `duration`: seconds (of a sample but for `total`). `silent`: share of whole 20 ms windows whose root mean square
        is below -60 dBFS. `clipped`: source samples that stand three or more in a row at full scale, and files that
        have such. `stereo`: files of several channels, which were folded. `resampled`: files by original rate.
        `notes`: the first files of both kinds, a sentence each.
    """
    seen: dict[str, list[int]] = {}
    for part in parts:
        for name, values in part.observed.items():
            seen.setdefault(name, []).extend(values)
    if not seen:
        return {}
    columns = [seen[name] for name in ("recording", "rate", "channels")]
    files = {number: (own, channels) for number, own, channels in zip(*columns, strict=True)}
    clipped = {number for number, count in zip(seen["recording"], seen["clipped"], strict=True) if count}
    low, middle, high, top = (int(x) for x in np.percentile(seen["samples"], [0, 50, 95, 100], method="inverted_cdf"))
    lengths = {"total": sum(seen["samples"]), "min": low, "median": middle, "p95": high, "max": top}
    resampled = Counter(own for own, _ in files.values() if own != rate)
    return {
        "duration": {name: count / rate for name, count in lengths.items()},
        "silent": sum(seen["quiet"]) / max(sum(seen["windows"]), 1),
        "clipped": {"samples": sum(seen["clipped"]), "files": len(clipped)},
        "files": len(files),
        "stereo": sum(channels > 1 for _, channels in files.values()),
        "resampled": {str(own): resampled[own] for own in sorted(resampled)},
        "notes": first_notes(parts),
    }


def summary_lines(manifest: Manifest) -> list[str]:
    """For people: how long, how silent, and what was done to the sound."""
    own, rate = manifest.statistics["speech"], manifest.fields["speech"].facts["sample_rate"]
    seconds = own["duration"]
    lines = [
        f"{seconds['total'] / 3600:.2f} h at {rate} Hz (of {own['rate_from']}) in pieces of {seconds['min']:.2f} to "
        f"{seconds['max']:.2f} s, median {seconds['median']:.2f} s",
        f"silent (20 ms below -60 dBFS): {own['silent']:.1%} of the time",
    ]
    if own["clipped"]["samples"]:
        lines.append(f"clipped: {own['clipped']['samples']} samples of {own['clipped']['files']} files")
    if own["stereo"]:
        lines += [f"folded to mono: {own['stereo']} files", *indented_notes(own, "stereo")]
    if own["resampled"]:
        each = ", ".join(f"{count} files from {before} Hz" for before, count in own["resampled"].items())
        lines += [f"resampled: {each}", *indented_notes(own, "resampled")]
    return lines
