"""A task whose labels have what a teacher says beside them (Izsak et al. 2019; Hinton et al. 2015)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.errors import ConfigError
from mmpt.finetune.evaluate import outputs_by_batch
from mmpt.finetune.examples import Examples
from mmpt.finetune.objective import labels_of
from mmpt.finetune.row_task import RowTask
from mmpt.finetune.rows import Rows
from mmpt.finetune.tasks import Task
from mmpt.finetune.tasks.classifier import Classifier
from mmpt.tokens import Batch, Content, Labels

Distance = Literal["kl", "mse"]
ROWS = 64  # that a teacher looks at in one go


def said_by(task: Task, examples: Examples) -> tuple[Float[np.ndarray, "B P"], list[Any]]:
    """Outputs of a fitted task's head, and what they come to for people; one of each for every sample."""
    outputs, scores = [], []
    for batch, own in outputs_by_batch(task.fitted_model(), Rows(task, examples, None), batch_size=ROWS):
        outputs.append(own.float())
        scores.extend(task.scores(own, batch))
    return torch.cat(outputs).numpy(), task.decode(scores)


class Taught(RowTask):
    """The student's side of a task: a training label is the teacher's outputs and a label's own numbers behind them.

    Args:
        inner: the task, on the student's encoder, with what the teacher's labels said.
        distance: from the teacher's outputs: `kl` of classes at a temperature, times its square; or `mse`.
        label_weight, teacher_weight: of the two losses.
        temperature: of the divergence.
    """

    def __init__(
        self, inner: RowTask, *, distance: Distance, label_weight: float, teacher_weight: float, temperature: float
    ) -> None:
        super().__init__(inner.encoder, label=cast("str", inner.label), inputs=inner.inputs, pool=inner.pool)
        if distance == "kl" and not isinstance(inner, Classifier):
            raise ConfigError(
                f"distance: 'kl' compares probabilities of classes, and {type(inner).__name__} has none; use mse"
            )
        self.inner, self.facts, self.distance = inner, inner.facts, distance
        self.label_weight, self.teacher_weight, self.temperature = label_weight, teacher_weight, temperature
        self.metrics = inner.metrics

    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """Nothing new."""
        return self.facts

    @property
    def size(self) -> int:
        """The inner task's."""
        return self.inner.size

    def head(self) -> nn.Module:
        """The inner task's."""
        return self.inner.head()

    def read(self, label: Any) -> np.ndarray:
        """A label alone, as validation has it."""
        return self.inner.read(label)

    def with_teacher(self, said: Float[np.ndarray, " P"], label: np.ndarray) -> np.ndarray:
        """A training label."""
        return np.concatenate([said, np.asarray(label, dtype=np.float64).ravel()]).astype(np.float32)

    def collate(self, labels: Sequence[np.ndarray | None], streams: Mapping[str, Content]) -> Labels:
        """Training labels have more numbers than others; what is unknown stands as zeros."""
        like = next((label for label in labels if label is not None), np.zeros(self.inner.shape))
        values = np.stack([np.zeros_like(like) if label is None else label for label in labels])
        return Labels(torch.from_numpy(values), torch.tensor([label is not None for label in labels]))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The weighted sum, one number a row."""
        labels = labels_of(batch)
        said = labels.values[:, : self.size]
        total = self.teacher_weight * self._apart(outputs.float(), said.float())
        if self.label_weight:
            own = labels.values[:, self.size :].reshape(-1, *self.inner.shape)
            total = total + self.label_weight * self.inner.loss(
                outputs, batch._replace(labels=Labels(own, labels.known))
            )
        return total

    def _apart(self, outputs: Float[Tensor, "B P"], said: Float[Tensor, "B P"]) -> Float[Tensor, " B"]:
        if self.distance == "mse":
            return (outputs - said).square().mean(1)
        goal, own = ((x / self.temperature).log_softmax(1) for x in (said, outputs))
        return self.temperature**2 * (goal.exp() * (goal - own)).sum(1)

    def scores(self, outputs: Tensor, batch: Batch) -> Sequence[np.ndarray]:
        """The inner task's."""
        return self.inner.scores(outputs, batch)

    def decode(self, scores: Sequence[np.ndarray]) -> list[Any]:
        """The inner task's."""
        return self.inner.decode(scores)

    def confusion(self, evidence: tuple[np.ndarray, ...]) -> np.ndarray | None:
        """The inner task's."""
        return self.inner.confusion(evidence)

    def guess(self) -> np.ndarray:
        """The inner task's, which knows the labels that the teacher was trained on."""
        return self.inner.guess()


class Joined(Examples):
    """Several, one behind the other."""

    def __init__(self, parts: Sequence[Examples]) -> None:
        self.parts = list(parts)
        self.where = " and ".join(part.where for part in parts)
        self.labels = [label for part in parts for label in part.labels]
        self.groups = [group for part in parts for group in part.groups]
        self.names = [name for part in parts for name in part.names]
        self.places = [(part, number) for part in parts for number in range(len(part))]

    def __len__(self) -> int:
        """All samples."""
        return len(self.places)

    def place(self, number: int) -> str:
        """For messages."""
        part, own = self.places[number]
        return part.place(own)

    def has(self, number: int, name: str) -> bool:
        """Of the part that has it."""
        part, own = self.places[number]
        return part.has(own, name)

    def values(self, number: int) -> dict[str, Any]:
        """Likewise."""
        part, own = self.places[number]
        return part.values(own)
