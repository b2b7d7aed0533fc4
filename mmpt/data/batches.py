"""Batches by position: the same global batches for any number of ranks and workers, and an integer to resume from."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mmpt.data import mixture
from mmpt.data.parcel import packed, unpacked
from mmpt.data.source import Skip, Source, row_draw
from mmpt.errors import ConfigError
from mmpt.tokens import Batch


class Share(NamedTuple):
    """A rank's part of every global batch: `accumulation` micro-batches of `bins` bins."""

    rank: int
    ranks: int
    accumulation: int
    bins: int


class MicroBatch(NamedTuple):
    """What a worker hands over."""

    batch: Batch
    skips: list[Skip]
    readable: list[bool]  # of every sample, skipped ones included, in the order of reading
    tokens: int  # valid
    places: int  # padding included


def share_of(batch_size: int, micro_batch_size: int | None, rank: int, ranks: int) -> Share:
    """How a global batch is divided; raises ConfigError with sizes that would do."""
    each, rest = divmod(batch_size, ranks)
    if rest:
        below, above = batch_size - rest, batch_size - rest + ranks
        raise ConfigError(
            f"data.batch_size: {batch_size} can't be divided by {ranks} ranks; use {below or above} or {above}"
        )
    micro = each if micro_batch_size is None else min(micro_batch_size, each)
    if each % micro:
        divisors = [n for n in range(1, each + 1) if each % n == 0]
        raise ConfigError(
            f"data.micro_batch_size: {micro} does not divide the {each} that a rank has of a batch of {batch_size}; "
            f"use one of {', '.join(map(str, divisors))}"
        )
    return Share(rank, ranks, each // micro, micro)


class MicroBatches(Dataset[MicroBatch]):
    """Micro-batch number n of a rank is number n % accumulation of step n // accumulation."""

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], steps: int, seed: int, share: Share
    ) -> None:
        self.sources = list(sources)
        self.seed = seed
        self.share = share
        self.chosen = mixture.schedule(weights, steps, seed)
        self.turn = mixture.turns_before(self.chosen, len(self.sources))

    def __len__(self) -> int:
        return len(self.chosen) * self.share.accumulation

    def bins(self, step: int, micro: int) -> list[int]:
        """Run-wide numbers of the bins that this rank's micro-batch takes of the step's source."""
        rank, ranks, accumulation, bins = self.share
        first = int(self.turn[step]) * ranks * accumulation * bins + (micro * ranks + rank) * bins
        return list(range(first, first + bins))

    def __getitem__(self, number: int) -> MicroBatch:
        step, micro = divmod(number, self.share.accumulation)
        source = self.sources[self.chosen[step]]
        rows = source.rows(self.bins(step, micro))
        draw = row_draw(self.seed, rows.epoch, rows.uid)
        batch = Batch(rows.streams, rows.uid, draw, source.name, step, matched=rows.matched, anchor=rows.anchor)
        tokens = sum(int(content.valid.sum()) for content in rows.streams.values())
        places = sum(content.valid.numel() for content in rows.streams.values())
        return MicroBatch(batch, rows.skips, rows.readable, tokens, places)


def steps_from(
    micro_batches: MicroBatches, start: int, *, workers: int, pin_memory: bool = False
) -> Iterator[list[MicroBatch]]:
    """From step `start` to the last: the micro-batches of each."""
    accumulation = micro_batches.share.accumulation
    ahead = max(4, -(-2 * accumulation // max(workers, 1)))  # of each worker: the next step is whole while one is taken
    loader = DataLoader(
        micro_batches,
        sampler=range(start * accumulation, len(micro_batches)),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        worker_init_fn=_start_worker if workers else None,
        collate_fn=packed if workers else _as_read,  # type: ignore[arg-type]
        pin_memory=pin_memory,
    )
    steps = _whole_steps(map(unpacked, loader) if workers else iter(loader), accumulation)
    return _one_ahead(steps) if workers else steps


def _whole_steps(micro_batches: Iterator[MicroBatch], accumulation: int) -> Iterator[list[MicroBatch]]:
    while step := list(islice(micro_batches, accumulation)):
        yield step


def _one_ahead(steps: Iterator[list[MicroBatch]]) -> Iterator[list[MicroBatch]]:
    """Fetched by a thread while the step before runs: every hand-over waits for an answer of a worker that is busy."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, steps, None)
        while (step := coming.result()) is not None:
            coming = thread.submit(next, steps, None)
            yield step


def _as_read(micro: MicroBatch) -> MicroBatch:
    return micro


def _start_worker(number: int) -> None:
    torch.set_num_threads(1)
    # A signal to the whole group is the loop's business: it stops between steps, and its workers with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def source_shares(sources: Sequence[Source], weights: Sequence[float], batch_size: int) -> list[dict[str, float | str]]:
    """For people: bins, steps an epoch and tokens of each source."""
    total = float(np.sum(weights))
    return [
        {
            "source": source.name,
            "share": weight / total,
            "bins": source.plan.num_bins,
            "steps_per_epoch": source.plan.num_bins / batch_size,
            "tokens_per_epoch": source.tokens_per_epoch,
        }
        for source, weight in zip(sources, weights, strict=True)
    ]
