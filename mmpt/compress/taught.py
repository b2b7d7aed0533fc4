"""A task whose labels have what a teacher says beside them (Izsak et al. 2019; Hinton et al. 2015)."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.errors import ConfigError
from mmpt.finetune.examples import Examples
from mmpt.finetune.tasks import Task
from mmpt.finetune.tasks.classifier import Classifier
from mmpt.tokens import Labels

Distance = Literal["kl", "mse"]


class Taught(Task):
    """The student's side of a task: a training label is the teacher's outputs and a label's own numbers behind them.

    Args:
        inner: the task, on the student's encoder, with what the teacher's labels said.
        scalar: whether a label is a single number.
        distance: from the teacher's outputs: `kl` of classes at a temperature, times its square; or `mse`.
        label_weight, teacher_weight: of the two losses.
        temperature: of the divergence.
    """

    def __init__(
        self,
        inner: Task,
        *,
        scalar: bool,
        distance: Distance,
        label_weight: float,
        teacher_weight: float,
        temperature: float,
    ) -> None:
        super().__init__(inner.encoder, label=inner.label, inputs=inner.inputs, pool=inner.pool)
        if distance == "kl" and not isinstance(inner, Classifier):
            raise ConfigError(
                f"distance: 'kl' compares probabilities of classes, and {type(inner).__name__} has none; use mse"
            )
        self.inner, self.facts, self.scalar, self.distance = inner, inner.facts, scalar, distance
        self.label_weight, self.teacher_weight, self.temperature = label_weight, teacher_weight, temperature
        self.metrics = inner.metrics  # type: ignore[misc]

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

    def loss(self, outputs: Tensor, labels: Labels) -> Tensor:
        """The weighted sum, one number a row."""
        said, own = labels.values[:, : self.size], labels.values[:, self.size :]
        own = own.squeeze(1) if self.scalar else own
        total = self.teacher_weight * self._apart(outputs.float(), said.float())
        if self.label_weight:
            total = total + self.label_weight * self.inner.loss(outputs, Labels(own, labels.known))
        return total

    def _apart(self, outputs: Float[Tensor, "B P"], said: Float[Tensor, "B P"]) -> Float[Tensor, " B"]:
        if self.distance == "mse":
            return (outputs - said).square().mean(1)
        goal, own = ((x / self.temperature).log_softmax(1) for x in (said, outputs))
        return self.temperature**2 * (goal.exp() * (goal - own)).sum(1)

    def scores(self, outputs: Tensor) -> np.ndarray:
        """The inner task's."""
        return self.inner.scores(outputs)

    def decode(self, scores: np.ndarray) -> list[Any]:
        """The inner task's."""
        return self.inner.decode(scores)

    def trivial(self, labels: np.ndarray) -> np.ndarray:
        """Of the training labels, whether a sample's own or the teacher's guess."""
        own = labels[:, self.size :]
        if self.scalar:
            own = own[:, 0]
        return self.inner.trivial(own.astype(np.int64) if isinstance(self.inner, Classifier) else own)


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

    def values(self, number: int) -> dict[str, Any]:
        """Of the part that has it."""
        part, own = self.places[number]
        return part.values(own)
