"""One of several classes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmpt.config import Component
from mmpt.downstream.encoder import Encoder
from mmpt.errors import DataError
from mmpt.finetune.pools import Pool
from mmpt.finetune.tasks import Metric, Task
from mmpt.tokens import Labels


def _of_guesses(score: Any, true: np.ndarray, scores: np.ndarray) -> float:
    return float(score(true, scores.argmax(1)))


def _auroc(true: np.ndarray, scores: np.ndarray) -> float:
    """One against the rest, mean over the classes that are there; NaN where only one is."""
    there = np.unique(true)
    if len(there) < 2:
        return float("nan")
    return float(np.mean([roc_auc_score(true == name, scores[:, name]) for name in there]))


class Classifier(Task):
    """Names or whole numbers as labels; cross-entropy.

    Args:
        encoder, label, inputs, pool: see `Task`.
        class_weights: `balanced` makes every class count as much as every other, as scikit-learn does.
        label_smoothing: share of every label that is spread over all classes (Szegedy et al. 2016, section 7).
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(partial(_of_guesses, accuracy_score)),
        "balanced_accuracy": Metric(partial(_of_guesses, balanced_accuracy_score)),
        "macro_f1": Metric(partial(_of_guesses, partial(f1_score, average="macro"))),
        "auroc": Metric(_auroc),
    }

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        inputs: tuple[str, ...] | list[str] | None = None,
        pool: Component[Pool] | None = None,
        class_weights: Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(encoder, label=label, inputs=inputs, pool=pool)
        self.class_weights, self.label_smoothing = class_weights, label_smoothing

    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """The classes, by name, and how many samples each has."""
        counts = Counter(_name(label) for label in labels)
        if len(counts) < 2:
            raise DataError(f"label '{self.label}' is '{next(iter(counts))}' in all {len(labels)} training samples")
        if len(counts) > max(len(labels) / 2, 2):
            raise DataError(
                f"label '{self.label}' has {len(counts)} values in {len(labels)} training samples, which are no "
                "classes; numbers are for Regressor"
            )
        classes = sorted(counts)
        return {"classes": classes, "counts": [counts[name] for name in classes]}

    @property
    def size(self) -> int:
        """Classes."""
        return len(self.facts["classes"])

    def read(self, label: Any) -> np.ndarray:
        """The number of the class."""
        name = _name(label)
        if name not in self.facts["classes"]:
            known = ", ".join(self.facts["classes"][:10])
            raise DataError(f"'{name}' is no class of the training samples, which have {known}")
        return np.array(self.facts["classes"].index(name))

    def loss(self, outputs: Tensor, labels: Labels) -> Tensor:
        """Nats."""
        weight = None
        if self.class_weights:
            counts = torch.tensor(self.facts["counts"], dtype=torch.float32, device=outputs.device)
            weight = counts.sum() / (len(counts) * counts)
        return cross_entropy(
            outputs.float(), labels.values.long(), weight, reduction="none", label_smoothing=self.label_smoothing
        )

    def scores(self, outputs: Tensor) -> np.ndarray:
        """Probabilities."""
        return outputs.float().softmax(1).numpy()

    def decode(self, scores: np.ndarray) -> list[str]:
        """The most probable class."""
        return [self.facts["classes"][number] for number in scores.argmax(1)]

    def trivial(self, labels: np.ndarray) -> np.ndarray:
        """How frequent each class is, the commonest first choice."""
        return np.bincount(labels, minlength=self.size)[None] / len(labels)


def _name(label: Any) -> str:
    if isinstance(label, str):
        return label
    if isinstance(label, (bool, int, np.integer, np.bool_)) or (isinstance(label, float) and label.is_integer()):
        return str(int(label))
    raise DataError(f"expected the name or number of one class, got {label!r}")
