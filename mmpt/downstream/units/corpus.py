"""A data set's samples as frames, one batch after the other; memory does not grow with the data set."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from mmpt.data.manifest import Manifest
from mmpt.data.reader import Reader
from mmpt.downstream.units.features import FrameFeatures
from mmpt.downstream.units.ranks import join
from mmpt.errors import DataError

AT_ONCE = 16  # samples at most
LONG = 2**24  # of a field's own units, such as samples of sound: more are in memory only where one recording has them

Chunk = list[tuple[int, Float[np.ndarray, "_ P"]]]


class Frames:
    """Row and frames of each sample, in the order given, as often as it is iterated over.

    The same frames come bit for bit whatever the number of workers and of ranks: each chunk of samples is computed by
    itself, by one thread where it is computed on the host. Under a launcher each rank computes its share, and each
    gets all frames; all have to iterate alike. Raises DataError that names the sample.

    Args:
        features: of which stream; has to pickle where there are workers.
        manifest: of the data set.
        rows: of its samples.
        workers: processes that read and compute; they take turns on the accelerators, if there are any. 0: this one.
        console: shows progress under `title`; None is quiet.
    """

    def __init__(
        self,
        features: FrameFeatures,
        manifest: Manifest,
        rows: Sequence[int],
        *,
        workers: int = 0,
        console: Console | None = None,
        title: str = "features",
    ) -> None:
        if workers < 0:
            raise DataError(f"workers: expected 0 or more, got {workers}")
        self.chunks, self.ranks = _Chunks(features, manifest, rows), join()
        self.rows, self.console, self.title = rows, console, title
        mine = range(self.ranks.rank, len(self.chunks), self.ranks.ranks)
        self.workers = min(workers, len(mine))
        self.loader = DataLoader(
            self.chunks,
            batch_size=None,
            sampler=mine,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            worker_init_fn=_start_worker if self.workers else None,
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=self.workers > 0,  # the next pass need not load the run again
        )

    def __iter__(self) -> Iterator[tuple[int, Float[np.ndarray, "_ P"]]]:
        if self.console is None:
            return self._each()
        return iter(track(self._each(), self.title, len(self.rows), console=self.console, transient=True))

    def _each(self) -> Iterator[tuple[int, Float[np.ndarray, "_ P"]]]:
        found = iter(self.loader)
        for first in range(0, len(self.chunks), self.ranks.ranks):
            mine = next(found, None)  # the ranks compute theirs at the same time, then each hands it to all
            for number in range(first, min(first + self.ranks.ranks, len(self.chunks))):
                yield from self._handed_out(number, mine)
        self.chunks.close()

    def _handed_out(self, number: int, mine: "Chunk | DataError | None") -> Chunk:
        owner, rows = number % self.ranks.ranks, self.chunks.rows_of(number)
        if self.ranks.ranks > 1:
            frames = [own for _, own in mine] if isinstance(mine, list) else mine
            return list(zip(rows, self.ranks.chunk_of(owner, frames, len(rows)), strict=True))
        if isinstance(mine, DataError):
            raise mine
        return mine or []


class _Chunks(Dataset["Chunk | DataError"]):
    """Frames of some samples, by number of the chunk; what is wrong with one is handed on, not raised."""

    def __init__(self, features: FrameFeatures, manifest: Manifest, rows: Sequence[int]) -> None:
        self.features, self.rows = features, rows
        self.reader = Reader(manifest, [features.stream])
        self.edges = chunk_edges(manifest.lengths(features.stream)[np.asarray(rows, dtype=np.int64)].tolist())

    def __len__(self) -> int:
        return len(self.edges) - 1

    def rows_of(self, number: int) -> list[int]:
        """Of the chunk."""
        return [int(row) for row in self.rows[self.edges[number] : self.edges[number + 1]]]

    def __getitem__(self, number: int) -> "Chunk | DataError":
        rows = self.rows_of(number)
        try:
            values = [self.reader.read(row)[self.features.stream] for row in rows]
            with _one_thread():
                return list(zip(rows, self._together(rows, values), strict=True))
        except DataError as error:
            return error

    def _together(self, rows: Sequence[int], values: Sequence[Any]) -> list[Float[np.ndarray, "_ P"]]:
        try:
            return self.features.of(values)
        except DataError:
            for row, value in zip(rows, values, strict=True):  # which of them it was
                try:
                    self.features.of([value])
                except DataError as error:
                    stream = self.features.stream
                    raise DataError(f"{self.reader.place(row)}: member '{stream}': {error}") from error
            raise

    def close(self) -> None:
        """Give this process's descriptors back."""
        self.reader.close()


def chunk_edges(lengths: Sequence[int]) -> list[int]:
    """Where chunks of samples of these lengths begin and the last one ends."""
    edges, total = [0], 0
    for number, length in enumerate(lengths):
        if number - edges[-1] == AT_ONCE or (total + length > LONG and number > edges[-1]):
            edges.append(number)
            total = 0
        total += length
    return [*edges, len(lengths)] if lengths else edges


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_it_is(chunk: "Chunk | DataError") -> "Chunk | DataError":
    return chunk


def _start_worker(number: int) -> None:
    """Each on a device of its own, as far as there are any; Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(number % torch.accelerator.device_count())


def rows_with(manifest: Manifest, stream: str, split: str | None) -> list[int]:
    """Rows that have the field, of a split or of all; raises DataError where there is none."""
    if stream not in manifest.fields:
        raise DataError(f"{manifest.folder}: no field '{stream}'; it has {', '.join(manifest.fields)}")
    rows = np.arange(len(manifest)) if split is None else manifest.split_rows(split)
    rows = rows[manifest.column(f"{stream}.offset")[rows] >= 0]
    if not len(rows):
        raise DataError(f"{manifest.folder}: no sample of {split or 'any split'} has a field '{stream}'")
    return [int(row) for row in rows]
