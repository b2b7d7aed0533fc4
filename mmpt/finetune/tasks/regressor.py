"""A number."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor
from torch.nn.functional import mse_loss

from mmpt.errors import DataError
from mmpt.finetune.metrics import Metric
from mmpt.finetune.objective import labels_of
from mmpt.finetune.row_task import RowTask
from mmpt.tokens import Batch


def _r2(true: np.ndarray, scores: np.ndarray) -> float:
    return float(r2_score(true, scores)) if len(np.unique(true)) > 1 else math.nan


def _spearman(true: np.ndarray, scores: np.ndarray) -> float:
    flat = len(np.unique(true)) < 2 or len(np.unique(scores)) < 2
    return math.nan if flat else float(np.corrcoef(rankdata(true), rankdata(scores))[0, 1])


METRICS = {
    "r2": Metric(_r2),
    "mae": Metric(lambda true, scores: float(mean_absolute_error(true, scores)), higher_is_better=False),
    "rmse": Metric(lambda true, scores: float(root_mean_squared_error(true, scores)), higher_is_better=False),
    "spearman": Metric(_spearman),
}


class Regressor(RowTask):
    """Learned in units of the training labels' standard deviation, told in their own; squared error.

    Args:
        encoder, label, inputs, pool: see `RowTask`.
    """

    metrics = METRICS

    def parse(self, label: Any) -> float:
        """In the label's own unit."""
        return _number(label)

    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """Mean and standard deviation."""
        values = np.array([self.parse(label) for label in labels])
        if values.std() == 0:
            raise DataError(f"label '{self.label}' is {values[0]} in all {len(labels)} training samples")
        return {"mean": float(values.mean()), "deviation": float(values.std())}

    @property
    def size(self) -> int:
        """One."""
        return 1

    def read(self, label: Any) -> np.ndarray:
        """In the label's own unit."""
        return np.array(self.parse(label))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Squared, in training deviations."""
        wanted = (labels_of(batch).values - self.facts["mean"]) / self.facts["deviation"]
        return mse_loss(outputs.float().squeeze(1), wanted.float(), reduction="none")

    def scores(self, outputs: Tensor, batch: Batch) -> Sequence[np.ndarray]:
        """In the label's own unit."""
        values = outputs.double().squeeze(1).numpy() * self.facts["deviation"] + self.facts["mean"]
        return [np.asarray(own) for own in values]

    def decode(self, scores: Sequence[np.ndarray]) -> list[float]:
        """As they are."""
        return [float(own) for own in scores]

    def confusion(self, evidence: tuple[np.ndarray, ...]) -> None:
        """There are no classes."""

    def guess(self) -> np.ndarray:
        """The mean."""
        return np.asarray(self.facts["mean"])


def _number(label: Any) -> float:
    is_number = isinstance(label, (int, float, np.integer, np.floating)) and not isinstance(label, bool)
    if is_number and math.isfinite(label):
        return float(label)
    raise DataError(f"expected a finite number, got {label!r}")
