"""One of several classes."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError
from mmpt.finetune.class_weights import ClassWeights, by_name, check_names, class_weights
from mmpt.finetune.classes import are_numbers, as_given, class_facts, class_number, confusions, name_of
from mmpt.finetune.metrics import Metric
from mmpt.finetune.objective import labels_of
from mmpt.finetune.row_task import PoolChoice, RowTask
from mmpt.finetune.tasks import Inputs
from mmpt.tokens import Batch


def _of_guesses(score: Any, true: np.ndarray, scores: np.ndarray) -> float:
    return float(score(true, scores.argmax(1)))


def _auroc(true: np.ndarray, scores: np.ndarray) -> float:
    """One against the rest, mean over the classes that are there; NaN where only one is."""
    there = np.unique(true)
    if len(there) < 2:
        return float("nan")
    return float(np.mean([roc_auc_score(true == name, scores[:, name]) for name in there]))


METRICS = {
    "accuracy": Metric(partial(_of_guesses, accuracy_score)),
    "balanced_accuracy": Metric(partial(_of_guesses, balanced_accuracy_score)),
    "macro_f1": Metric(partial(_of_guesses, partial(f1_score, average="macro"))),
    "auroc": Metric(_auroc),
}


class Classifier(RowTask):
    """Names or whole numbers as labels; cross-entropy.

    Args:
        encoder, label, inputs, pool: see `RowTask`.
        class_weights: `balanced` makes every class count as much as every other, as scikit-learn does; or a weight by
            class, 1 where none is given.
        label_smoothing: share of every label that is spread over all classes (Szegedy et al. 2016, section 7).
    """

    metrics = METRICS

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        inputs: Inputs = None,
        pool: PoolChoice = None,
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(encoder, label=label, inputs=inputs, pool=pool)
        self.class_weights: ClassWeights = by_name(class_weights)
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"label_smoothing: expected a share from 0 to 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def parse(self, label: Any) -> str:
        """The name of the class."""
        return name_of(label)

    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """The classes, by name, and how many samples each has."""
        facts = class_facts(Counter(map(self.parse, labels)), self.label, "samples")
        check_names(self.class_weights, facts["classes"])
        return facts | {"numbers": are_numbers(labels)}

    @property
    def size(self) -> int:
        """Classes."""
        return len(self.facts["classes"])

    def read(self, label: Any) -> np.ndarray:
        """The number of the class."""
        return np.array(class_number(self.parse(label), self.facts["classes"]))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Nats."""
        weight = class_weights(self.class_weights, self.facts["classes"], self.facts["counts"], outputs.device)
        labels = labels_of(batch).values.long()
        return cross_entropy(outputs.float(), labels, weight, reduction="none", label_smoothing=self.label_smoothing)

    def scores(self, outputs: Tensor, batch: Batch) -> Sequence[np.ndarray]:
        """Probabilities."""
        return list(outputs.float().softmax(1).numpy())

    def decode(self, scores: Sequence[np.ndarray]) -> list[str | int]:
        """The most probable class; a number, where all labels were."""
        return as_given(self.facts, [int(own.argmax()) for own in scores])

    def confusion(self, evidence: tuple[np.ndarray, ...]) -> np.ndarray:
        """Of the most probable classes."""
        true, scores = evidence
        return confusions([true], [scores.argmax(1)], self.size)[0]

    def guess(self) -> np.ndarray:
        """How frequent each class is, the commonest first choice."""
        counts = np.array(self.facts["counts"])
        return counts / counts.sum()
