"""From examples to batches."""

from collections.abc import Sequence

import numpy as np
import torch

from mmpt.data.source import row_draw
from mmpt.downstream.values import raw_value
from mmpt.errors import DataError
from mmpt.finetune.examples import Examples
from mmpt.finetune.tasks import Task
from mmpt.randomness import permutation
from mmpt.tokens import Batch


class Rows:
    """Reads and collates rows of examples for a task.

    Args:
        known: labels as the task reads them, one a sample, None where there is none; None: no labels are asked for.
        seed: of order and augmentation. augment: whether training may see samples otherwise than they are.
    """

    def __init__(
        self,
        task: Task,
        examples: Examples,
        known: Sequence[np.ndarray | None] | None,
        *,
        seed: int = 0,
        augment: bool = False,
    ) -> None:
        self.task, self.examples, self.known, self.seed, self.augment = task, examples, known, seed, augment
        self.like = next((label for label in known or () if label is not None), None)

    def batch(self, numbers: Sequence[int], *, epoch: int = 0, padding: int = 0) -> Batch:
        """These examples, and so many more rows that count for nothing; every input is there, if only as padding."""
        chosen = [*numbers, *[numbers[0] if numbers else 0] * padding]
        uid = torch.tensor(chosen)
        draw = row_draw(self.seed, torch.full_like(uid, epoch), uid)
        read = [self._read(number, key) for number, key in zip(chosen, draw.tolist(), strict=True)]
        streams = {}
        for name in self.task.inputs:
            modality = self.task.encoder.modalities[name]
            streams[name] = modality.collate([[row[name]] if name in row else [] for row in read], None)
        labels = None
        if self.known is not None and self.like is not None:
            own = [self.known[number] for number in numbers] + [None] * padding
            labels = self.task.collate(own, self.like)
        return Batch(streams, uid, draw, "finetune", 0, labels)

    def _read(self, number: int, draw: int) -> dict[str, np.ndarray]:
        values = {}
        for name, given in self.examples.values(number).items():
            modality = self.task.encoder.modalities[name]
            try:
                raw = raw_value(modality, given)
                values[name] = modality.read(raw, 0, modality.limit, draw if self.augment else None)
            except DataError as error:
                raise DataError(f"{self.examples.place(number)}: '{name}': {error}") from error
        return values


def order_of(usable: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The examples of an epoch: a function of seed and epoch alone."""
    return usable[permutation(len(usable), seed, 0, epoch, "fine-tuning order").numpy()]


def share_of(batch: np.ndarray, rank: int, ranks: int) -> tuple[list[int], int]:
    """A rank's rows of a batch, and how many rows of padding make it as large as every other rank's."""
    size = -(-len(batch) // ranks)
    own = batch[rank * size : (rank + 1) * size].tolist()
    return own, size - len(own)


def known_labels(task: Task, examples: Examples) -> list[np.ndarray | None]:
    """Labels as numbers; raises DataError that names the sample."""
    known = []
    for number, label in enumerate(examples.labels):
        try:
            known.append(None if label is None else task.read(label))
        except DataError as error:
            raise DataError(f"{examples.place(number)}: label '{task.label}': {error}") from error
    return known
