"""Any number of labels at once."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mmpt.downstream.encoder import Encoder
from mmpt.errors import DataError
from mmpt.finetune.class_weights import ClassWeights, by_name, check_names, class_weights
from mmpt.finetune.metrics import Metric
from mmpt.finetune.objective import labels_of
from mmpt.finetune.row_task import PoolChoice, RowTask
from mmpt.finetune.tasks import Inputs
from mmpt.tokens import Batch


def _mean_over_labels(score: Any, true: np.ndarray, scores: np.ndarray) -> float:
    """Over the labels that some samples have and some lack; NaN where there is none."""
    mixed = [n for n in range(true.shape[1]) if 0 < true[:, n].sum() < len(true)]
    return float(np.mean([score(true[:, n], scores[:, n]) for n in mixed])) if mixed else float("nan")


def _f1(average: str, true: np.ndarray, scores: np.ndarray) -> float:
    return float(f1_score(true, scores > 0.5, average=average))


METRICS = {
    "macro_auroc": Metric(partial(_mean_over_labels, roc_auc_score)),
    "mean_average_precision": Metric(partial(_mean_over_labels, average_precision_score)),
    "micro_f1": Metric(partial(_f1, "micro")),
    "macro_f1": Metric(partial(_f1, "macro")),
}


class MultiLabel(RowTask):
    """A list of names, or a dict of name to true or false, as a label; binary cross-entropy, a mean over the names.

    In a dict, 1 and 0 are true and false, and a name that is not there is false; anything else, as NaN, is refused.

    Args:
        encoder, label, inputs, pool: see `RowTask`.
        stands_for: the names that a label of one word stands for, perhaps none, by word.
        class_weights: of samples that have a name against those that lack it (torch's `pos_weight`): `balanced` makes
            both weigh the same for every name; or a weight by name, 1 where none is given.
    """

    metrics = METRICS

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        inputs: Inputs = None,
        pool: PoolChoice = None,
        stands_for: Mapping[str, tuple[str, ...] | list[str]] | None = None,
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(encoder, label=label, inputs=inputs, pool=pool)
        self.class_weights: ClassWeights = by_name(class_weights)
        self.stands_for = stands_for

    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """The names, and how many samples have each."""
        counts = Counter(name for label in labels for name in self.parse(label))
        if not counts:
            raise DataError(f"label '{self.label}' is empty in all {len(labels)} training samples")
        names = sorted(counts)
        if min(counts.values()) == len(labels):
            raise DataError(
                f"label '{self.label}' has the same names ({', '.join(names[:10])}) in all {len(labels)} training "
                "samples, so that there is nothing to learn; add samples that lack some"
            )
        check_names(self.class_weights, names)
        return {"names": names, "counts": [counts[name] for name in names], "samples": len(labels)}

    @property
    def size(self) -> int:
        """Names."""
        return len(self.facts["names"])

    def read(self, label: Any) -> np.ndarray:
        """1 for each name that the sample has."""
        own = self.parse(label)
        unknown = sorted(own - set(self.facts["names"]))
        if unknown:
            known = ", ".join(self.facts["names"][:10])
            raise DataError(f"'{unknown[0]}' is no name of the training samples, which have {known}")
        return np.array([name in own for name in self.facts["names"]], dtype=np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """A number a name."""
        return (self.size,)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Nats a name."""
        labels = labels_of(batch).values.float()
        weight = self._weight(outputs.device)
        return binary_cross_entropy_with_logits(outputs.float(), labels, pos_weight=weight, reduction="none").mean(1)

    def _weight(self, device: torch.device) -> Float[Tensor, " V"] | None:
        """Of having each name; 1 of one that every training sample has."""
        names, counts = self.facts["names"], self.facts["counts"]
        if self.class_weights != "balanced":
            return class_weights(self.class_weights, names, counts, device)
        have = torch.tensor(counts, dtype=torch.float32, device=device)
        lack = self.facts["samples"] - have
        return torch.where(lack > 0, lack / have, 1.0)

    def scores(self, outputs: Tensor, batch: Batch) -> Sequence[np.ndarray]:
        """Probabilities."""
        return list(outputs.float().sigmoid().numpy())

    def decode(self, scores: Sequence[np.ndarray]) -> list[list[str]]:
        """The names that are more probable than not."""
        return [[name for name, score in zip(self.facts["names"], row, strict=True) if score > 0.5] for row in scores]

    def confusion(self, evidence: tuple[np.ndarray, ...]) -> None:
        """There are no classes."""

    def guess(self) -> np.ndarray:
        """How frequent each name is."""
        return np.array(self.facts["counts"]) / self.facts["samples"]

    def parse(self, label: Any) -> set[str]:
        """The names that the sample has."""
        if isinstance(label, Mapping):
            return {str(name) for name, has in label.items() if _is_true(has, str(name))}
        several = label.tolist() if isinstance(label, np.ndarray) else label  # a column of lists read from Parquet
        if isinstance(several, (list, tuple, set)) and all(isinstance(name, str) for name in several):
            return set(several)
        if self.stands_for is None or not isinstance(label, str):
            raise DataError(f"expected a list of names, or a dict of name to true or false, got {label!r}")
        if label not in self.stands_for:
            near = difflib.get_close_matches(label, self.stands_for, n=1)
            advice = f"; did you mean '{near[0]}'?" if near else ""
            raise DataError(f"stands_for says nothing of '{label}', but of {', '.join(self.stands_for)}{advice}")
        return set(self.stands_for[label])


def _is_true(has: Any, name: str) -> bool:
    kinds = (bool, int, float, np.bool_, np.integer, np.floating)
    if isinstance(has, kinds) and has in (0, 1):
        return bool(has)
    raise DataError(
        f"expected true or false, 1 or 0 for '{name}', got {has!r}; leave the sample out if it is not known"
    )
