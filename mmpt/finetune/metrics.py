"""Scores of predictions, and intervals around them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmpt.downstream.result import Interval

RESAMPLES = 200


class Metric(NamedTuple):
    """A score of predictions."""

    score: Callable[..., float]  # of the task's evidence: arrays of one row a sample
    higher_is_better: bool = True


@dataclass(frozen=True)
class Score(Interval):
    """A metric's value and interval, and `trivial`: that of one who never looks at a sample."""

    trivial: float


def values(metrics: Mapping[str, Metric], evidence: Sequence[np.ndarray]) -> dict[str, float]:
    """Each metric; NaN where it has none, as for a single class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of scikit-learn, about classes that a resample lacks
        return {name: metric.score(*evidence) for name, metric in metrics.items()}


def intervals(
    metrics: Mapping[str, Metric], evidence: Sequence[np.ndarray], groups: np.ndarray, seed: int
) -> dict[str, Interval]:
    """Each metric and where 95 % of its values over resampled groups lie."""
    names, group = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    random = np.random.default_rng(seed)
    draws = [
        np.concatenate([members[n] for n in random.integers(len(names), size=len(names))]) for _ in range(RESAMPLES)
    ]
    found = {}
    for name, value in values(metrics, evidence).items():
        over = np.array([values({name: metrics[name]}, [own[rows] for own in evidence])[name] for rows in draws])
        over = over[~np.isnan(over)]
        low, high = np.percentile(over, [2.5, 97.5]) if len(over) else (value, value)
        found[name] = Interval(value, min(value, float(low)), max(value, float(high)))
    return found
