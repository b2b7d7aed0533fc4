"""What a fitted model says of samples, and how good that is."""

import warnings
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mmpt.downstream.result import Interval
from mmpt.errors import DataError
from mmpt.finetune.examples import Examples
from mmpt.finetune.objective import Supervised
from mmpt.finetune.rows import Rows, known_labels
from mmpt.finetune.tasks import Metric, Task
from mmpt.model import MaskedModel

RESAMPLES = 200


@torch.no_grad()
def outputs_of(task: Task, model: MaskedModel, examples: Examples, *, batch_size: int) -> Tensor:
    """Outputs of the head for every sample, in order; on the host."""
    objective = cast("Supervised", model.objective)
    rows, device = Rows(task, examples, None), next(model.parameters()).device
    training, parts = model.training, []
    model.eval()
    for start in range(0, len(examples), batch_size):
        batch = rows.batch(range(start, min(start + batch_size, len(examples)))).to(device)
        parts.append(objective.outputs(model.backbone, batch).cpu())
    model.train(training)
    return torch.cat(parts)


def evaluated(task: Task, model: MaskedModel, examples: Examples, *, batch_size: int, seed: int) -> dict[str, Interval]:
    """Every metric with its interval, over the samples that have a label."""
    known = known_labels(task, examples)
    labelled = np.array([label is not None for label in known])
    if not labelled.any():
        raise DataError(f"{examples.where}: no sample has a label '{task.label}'")
    scores = task.scores(outputs_of(task, model, examples, batch_size=batch_size))
    true = np.stack([label for label in known if label is not None])
    groups = np.array(examples.groups)[labelled]
    return intervals(task.metrics, true, scores[labelled], groups, seed)


def values(metrics: Mapping[str, Metric], true: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Each metric; NaN where it has none, as for a single class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of scikit-learn, about classes that a resample lacks
        return {name: metric.score(true, scores) for name, metric in metrics.items()}


def intervals(
    metrics: Mapping[str, Metric], true: np.ndarray, scores: np.ndarray, groups: np.ndarray, seed: int
) -> dict[str, Interval]:
    """Each metric and where 95 % of its values over resampled groups lie."""
    names, group = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    random = np.random.default_rng(seed)
    draws = [
        np.concatenate([members[n] for n in random.integers(len(names), size=len(names))]) for _ in range(RESAMPLES)
    ]
    found = {}
    for name, value in values(metrics, true, scores).items():
        over = np.array([values({name: metrics[name]}, true[rows], scores[rows])[name] for rows in draws])
        over = over[~np.isnan(over)]
        low, high = np.percentile(over, [2.5, 97.5]) if len(over) else (value, value)
        found[name] = Interval(value, min(value, float(low)), max(value, float(high)))
    return found
