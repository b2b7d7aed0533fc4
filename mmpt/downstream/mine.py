"""`mmpt mine`: which samples a run's features find alike that are not, for contrast with hard negatives.

The ranking-consistency filter and the window of ranks are KaLM-Embedding's (Hu et al. 2025); the limit in terms of the
positive's own similarity is NV-Retriever's (Moreira et al. 2024).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mmpt.data.hard_negatives import Mined, save_mined
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.encoder import load
from mmpt.downstream.fields import check_fields
from mmpt.downstream.retrieval import features_of
from mmpt.errors import DataError

CHUNK = 512  # queries compared at once


class Found(NamedTuple):
    """What mining came to, for people."""

    file: Path
    samples: int
    dropped: int  # pairs that the filter took out
    alike: int  # candidates in the window's reach that were too alike to be negatives
    negatives: float  # a sample, on average

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.file}: {self.negatives:.1f} hard negatives a sample of {self.samples}; {self.dropped} pairs are "
            f"left out, their own half being none of the nearest; {self.alike} candidates were too alike"
        )


def mine(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    streams: Sequence[str],
    split: str = "train",
    ranks: tuple[int, int] = (10, 50),
    share: float = 0.95,
    top: int = 50,
    step: int | None = None,
) -> Found:
    """Write the hard negatives of every sample of a split.

    A sample asks with its first stream; candidates are the last stream's halves of all samples (with one stream, the
    samples themselves). Candidates of the sample's own group are passed over, and so is what is more similar than
    `share` of the similarity of the sample's own half: likely a false negative. The rest is ranked.

    Args:
        run: whose features are compared; see `mmpt.downstream.retrieval.retrieve`.
        data: the data set.
        out: a `.safetensors` file.
        streams: one, or two of a pair.
        split: of the data set.
        ranks: the first and last rank, from 1, that become negatives.
        share: of the own half's similarity; 1 passes over only what is more similar than that.
        top: a pair whose own half is not among so many nearest candidates is left out.
        step: of the checkpoint; the newest by default.

    Raises:
        DataError: settings that make no sense, streams that don't fit, or fewer than two samples.
    """
    out = Path(out)
    _check(out, streams, ranks, share, top)
    manifest, encoder = load_manifest(data), load(run, step=step)
    check_fields(Path(run), encoder.modalities, manifest, streams)
    rows = manifest.split_rows(split)
    rows = rows[np.all([manifest.column(f"{name}.offset")[rows] >= 0 for name in streams], axis=0)]
    if len(rows) < 2:
        raise DataError(f"{manifest.folder}: split '{split}' has {len(rows)} samples with {' and '.join(streams)}")
    describe, name = features_of(encoder, (streams[0], streams[-1]))
    reader = Reader(manifest, list(streams))
    values = [reader.read(int(row)) for row in rows]
    reader.close()
    sides = {stream: describe(stream, [value[stream] for value in values]) for stream in streams}
    groups = np.unique(np.asarray(manifest.column("group"), dtype=object)[rows].astype(str), return_inverse=True)[1]
    near, ranked, alike = nearest(sides[streams[0]], sides[streams[-1]], groups, ranks=ranks, share=share)
    mined = _of_manifest(manifest, rows, near, ranked <= top)
    described = {"features": name, "step": encoder.step, "streams": list(streams), "split": split}
    digest = hashlib.sha256(mined.negatives.tobytes() + mined.kept.tobytes()).hexdigest()[:16]
    facts = {**described, "ranks": list(ranks), "share": share, "top": top}
    save_mined(mined._replace(facts={**facts, "data": manifest.fingerprint(), "hash": digest}), out)
    return Found(out, len(rows), int((ranked > top).sum()), alike, float((near >= 0).sum(1).mean()))


def _check(out: Path, streams: Sequence[str], ranks: tuple[int, int], share: float, top: int) -> None:
    if out.suffix != ".safetensors":
        raise DataError(f"{out}: expected a file that ends in .safetensors")
    if len(streams) not in (1, 2):
        raise DataError(f"streams: expected one, or two of a pair, got {', '.join(streams) or 'none'}")
    if not 1 <= ranks[0] <= ranks[1] or not 0 < share <= 1 or top < 1:
        raise DataError(
            "ranks, share, top: expected two rising ranks from 1, a share up to 1 and a rank, "
            f"got {ranks[0]}:{ranks[1]}, {share} and {top}"
        )


def _of_manifest(manifest: Manifest, rows: np.ndarray, near: np.ndarray, kept: np.ndarray) -> Mined:
    negatives = np.full((len(manifest), near.shape[1]), -1, dtype=np.int64)
    negatives[rows] = np.where(near >= 0, rows[near], -1)
    every = np.zeros(len(manifest), dtype=bool)
    every[rows] = kept
    return Mined(negatives, every, {})


def nearest(
    ask: Float[np.ndarray, "n D"],
    answer: Float[np.ndarray, "n D"],
    groups: Int[np.ndarray, " n"],
    *,
    ranks: tuple[int, int],
    share: float,
) -> tuple[Int[np.ndarray, "n K"], Int[np.ndarray, " n"], int]:
    """Candidates by rank, -1 where there are no more; ranks of the own halves, from 1; how many were too alike.

    Of `answer` row i is the own half of `ask` row i; similarities are inner products.
    """
    first, last = ranks
    chosen, ranked, alike = [], [], 0
    for start in range(0, len(ask), CHUNK):
        numbers = np.arange(start, min(start + CHUNK, len(ask)))
        similar = ask[numbers] @ answer.T
        own = similar[np.arange(len(numbers)), numbers][:, None]
        others = groups[numbers][:, None] != groups[None, :]
        ranked.append(1 + (others & (similar > own)).sum(1))
        too_alike = others & (similar > own - (1 - share) * np.abs(own))
        alike += int(too_alike.sum())
        chosen.append(_window(similar, others & ~too_alike, first, last))
    return np.concatenate(chosen), np.concatenate(ranked), alike


def _window(similar: Float[np.ndarray, "q n"], allowed: Bool[np.ndarray, "q n"], first: int, last: int) -> np.ndarray:
    order = np.argsort(np.where(allowed, -similar, np.inf), axis=1, kind="stable")[:, first - 1 : last]
    there = np.take_along_axis(allowed, order, axis=1)
    missing = last - first + 1 - order.shape[1]
    return np.pad(np.where(there, order, -1), ((0, 0), (0, missing)), constant_values=-1)
