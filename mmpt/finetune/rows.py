"""From examples to batches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from mmpt.data.source import row_draw
from mmpt.downstream.values import is_longer, raw_value
from mmpt.errors import DataError
from mmpt.finetune.examples import Examples
from mmpt.finetune.tasks import Sample, Task
from mmpt.randomness import permutation
from mmpt.tokens import Batch

Known = Sequence[np.ndarray | None]  # labels as the task reads them, one a sample, None where there is none


class Rows:
    """Reads and collates rows of examples for a task.

    Args:
        known: labels; None: there are none at all, and every sample is asked about.
        seed: of order and augmentation. augment: whether training may see samples otherwise than they are.
    """

    def __init__(
        self, task: Task, examples: Examples, known: Known | None, *, seed: int = 0, augment: bool = False
    ) -> None:
        self.task, self.examples, self.known, self.seed = task, examples, known, seed
        self.augment = augment and task.augments
        self.cut = 0  # samples that were read and are longer than the encoder takes

    def batch(self, numbers: Sequence[int], *, epoch: int = 0, padding: int = 0) -> Batch:
        """These examples, and so many more rows that count for nothing; every input is there, if only as padding."""
        chosen = [*numbers, *[numbers[0] if numbers else 0] * padding]
        uid = torch.tensor(chosen)
        draw = row_draw(self.seed, torch.full_like(uid, epoch), uid)
        read = [self.sample(number, key) for number, key in zip(chosen, draw.tolist(), strict=True)]
        streams = {}
        for name in self.task.inputs:
            modality = self.task.encoder.modalities[name]
            streams[name] = modality.collate([[own.read[name]] if name in own.read else [] for own in read], None)
        own = [self.label(number, sample) for number, sample in zip(numbers, read[: len(numbers)], strict=True)]
        labels = self.task.collate(own + [None] * padding, streams)
        return Batch(streams, uid, draw, "finetune", 0, labels)

    def sample(self, number: int, draw: int) -> Sample:
        """What is read of one; raises DataError that names it."""
        raw, read, cut, key = {}, {}, False, draw if self.augment else None
        for name, given in self.examples.values(number).items():
            modality = self.task.encoder.modalities[name]
            try:
                raw[name] = raw_value(modality, given)
                read[name] = modality.read(raw[name], 0, modality.limit, key)
                cut = cut or is_longer(modality, raw[name], len(read[name]))
            except DataError as error:
                raise DataError(f"{self.examples.place(number)}: '{name}': {error}") from error
        if not any(map(len, read.values())):
            raise DataError(f"{self.examples.place(number)}: {' and '.join(raw)} have nothing in them; leave it out")
        self.cut += cut
        return Sample(raw, read, key)

    def label(self, number: int, sample: Sample) -> np.ndarray | None:
        """As it stands for what was read; raises DataError that names the sample."""
        if self.known is None:
            return self.task.align(None, sample)
        label = self.known[number]
        if label is None:
            return None
        with named(self.task, self.examples, number):
            return self.task.align(label, sample)


@contextmanager
def named(task: Task, examples: Examples, number: int) -> Iterator[None]:
    """Puts the sample and its label in front of what is wrong with them."""
    try:
        yield
    except DataError as error:
        label = "" if task.label is None else f"label '{task.label}': "
        raise DataError(f"{examples.place(number)}: {label}{error}") from error


class Unfit(NamedTuple):
    """Samples that were left out because their label is of no use, and what is wrong with the first."""

    samples: int
    first: str


def known_labels(task: Task, examples: Examples, *, held: bool = False) -> tuple[list[np.ndarray | None], Unfit]:
    """Labels as numbers; raises DataError that names the first sample whose label is of no use.

    Where they may contradict their samples they are held against them, if `held` says so or the task leaves them out.
    """
    found: list[np.ndarray | None] = []
    unfit: list[str] = []
    rows = Rows(task, examples, found)
    for number, label in enumerate(task.given(examples)):
        try:
            with named(task, examples, number):
                found.append(None if label is None else task.read(label))
            if task.checks and label is not None and (held or task.leaves_out):
                rows.label(number, rows.sample(number, 0))
        except DataError as error:
            if not task.leaves_out:
                raise
            unfit.append(str(error))
            found[number:] = [None]
    return found, Unfit(len(unfit), unfit[0] if unfit else "")


def usable(known: Known) -> np.ndarray:
    """Numbers of the samples that have a label."""
    return np.array([number for number, label in enumerate(known) if label is not None], dtype=np.int64)


def order_of(usable: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The examples of an epoch: a function of seed and epoch alone."""
    return usable[permutation(len(usable), seed, 0, epoch, "fine-tuning order").numpy()]


def share_of(batch: np.ndarray, rank: int, ranks: int) -> tuple[list[int], int]:
    """A rank's rows of a batch, and how many rows of padding make it as large as every other rank's."""
    size = -(-len(batch) // ranks)
    own = batch[rank * size : (rank + 1) * size].tolist()
    return own, size - len(own)
