"""Classifiers on frozen features, and how sure their scores are: pure functions of arrays, on one thread."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from mmpt.downstream.result import Interval

STRENGTHS = tuple(10.0**exponent for exponent in range(-5, 4))  # of LogisticRegression's C
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
WITHOUT_JUDGES = 1.0, 1  # C and k where there is nothing to judge by
PATIENCE = 2  # strengths in a row that are worse than the best
ITERATIONS = 500
FOLDS = 5
RESAMPLES = 2000
Score = Callable[[np.ndarray, np.ndarray], float]  # of true and predicted labels


def _balanced(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the true classes of the share that was found."""
    return float(np.mean([np.mean(predicted[labels == name] == name) for name in np.unique(labels)]))


def _macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over classes of F1."""
    return float(f1_score(labels, predicted, average="macro"))


SCORES: dict[str, Score] = {
    "accuracy": accuracy_score,
    "balanced": _balanced,
    "macro_f1": _macro_f1,
}

Fold = tuple[np.ndarray, np.ndarray]  # rows to fit on, rows to judge by
Matrix = Any  # ndarray or scipy's sparse matrix, one row a sample


class Choice(NamedTuple):
    """What a probe says of the test rows, and the setting that the judging rows chose."""

    predicted: np.ndarray
    setting: float


def grouped_folds(rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, most: int = FOLDS) -> list[Fold]:
    """Cross-validation inside `rows`, no group on both sides; labels and groups are of these rows."""
    count = min(most, len(np.unique(groups)), int(np.bincount(labels).max()))
    if count < 2:
        return []
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of fewer samples than folds is no reason to speak
        splits = list(splitter.split(labels, labels, groups))
    return [(rows[fit], rows[judge]) for fit, judge in splits if len(np.unique(labels[fit])) > 1]


def linear_probe(
    features: Matrix,
    labels: np.ndarray,
    folds: Sequence[Fold],
    train: np.ndarray,
    test: np.ndarray,
    score: Score = accuracy_score,
) -> Choice:
    """Standardised features, logistic regression; C is the one of the best mean score over the folds."""
    strength = _strength(features, labels, folds, score)
    scaled, judged = _standardised(features, train, test)
    model = _fit(LogisticRegression(C=strength, max_iter=ITERATIONS), scaled, labels[train])
    return Choice(np.asarray(model.predict(judged)), strength)


def best_of(scores: np.ndarray) -> int:
    """Of equally good settings the middle one: few judging rows can't tell them apart, and the ends are extreme."""
    best = np.flatnonzero(np.isclose(scores, scores.max(), rtol=0, atol=1e-12))
    return int(best[len(best) // 2])


def _strength(features: Matrix, labels: np.ndarray, folds: Sequence[Fold], score: Score) -> float:
    """The C of the best mean score over the folds; weaker ones, which take long, are not tried once scores fall."""
    if not folds:
        return WITHOUT_JUDGES[0]
    parts = [(*_standardised(features, fit, judge), labels[fit], labels[judge]) for fit, judge in folds]
    # from strong to weak: each starts where the one before ended
    models = [LogisticRegression(max_iter=ITERATIONS, warm_start=True) for _ in folds]
    scores: list[float] = []
    for strength in STRENGTHS:
        each = []
        for model, (fitted, judged, known, true) in zip(models, parts, strict=True):
            _fit(model.set_params(C=strength), fitted, known)
            each.append(score(true, np.asarray(model.predict(judged))))
        scores.append(float(np.mean(each)))
        if max(scores[-PATIENCE:]) < max(scores):
            break
    return STRENGTHS[best_of(np.array(scores))]


def _standardised(features: Matrix, fit: np.ndarray, judge: np.ndarray) -> tuple[Matrix, Matrix]:
    if sparse.issparse(features):  # term weights: they have their scale, and centred they would fill the memory
        return features[fit], features[judge]
    scaler = StandardScaler().fit(features[fit])
    return scaler.transform(features[fit]), scaler.transform(features[judge])


def _fit(model: LogisticRegression, features: Matrix, labels: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        # stopping early regularises; whether that is good is for the judging rows to say
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def neighbour_probe(
    features: Matrix,
    labels: np.ndarray,
    folds: Sequence[Fold],
    train: np.ndarray,
    test: np.ndarray,
    score: Score = accuracy_score,
) -> Choice:
    """Vote of the k nearest by cosine; k is the one of the best mean score over the folds."""
    scores = np.zeros(len(NEIGHBOURS))
    for fit, judge in folds:
        votes = _votes(features, labels, fit, judge)
        scores += [score(labels[judge], vote) for vote in votes]
    best = best_of(scores) if folds else NEIGHBOURS.index(WITHOUT_JUDGES[1])
    return Choice(_votes(features, labels, train, test)[best], NEIGHBOURS[best])


def _votes(features: Matrix, labels: np.ndarray, fit: np.ndarray, judge: np.ndarray) -> list[np.ndarray]:
    """The winning class for every number of neighbours; of two with as many votes, the one with the nearest."""
    most = min(max(NEIGHBOURS), len(fit))
    search = NearestNeighbors(n_neighbors=most, metric="cosine", algorithm="brute").fit(features[fit])
    near = labels[fit][search.kneighbors(features[judge], return_distance=False)]
    winners = []
    for count in NEIGHBOURS:
        cast = np.zeros((len(near), labels.max() + 1), dtype=np.int64)
        np.add.at(cast, (np.arange(len(near))[:, None], near[:, :count]), 1)
        tied = cast == cast.max(axis=1, keepdims=True)
        first = np.take_along_axis(tied, near, axis=1).argmax(axis=1)
        winners.append(near[np.arange(len(near)), first])
    return winners


class Bootstrap:
    """Scores over resampled groups; the same resamples for every prediction, so that differences are paired.

    Args:
        labels: of the test rows.
        groups: of the test rows: whole groups are drawn, for samples of one group are not independent.
        seed: of the draws.
    """

    def __init__(self, labels: np.ndarray, groups: np.ndarray, seed: int) -> None:
        names, self.group = np.unique(groups, return_inverse=True)
        self.labels = labels
        draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
        self.weights = np.concatenate([np.ones((1, len(names))), draws])  # row 0: the test rows as they are

    def _counts(self, classes: np.ndarray, of: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """How many counted rows every resample has of each class."""
        table = np.zeros((self.weights.shape[1], len(classes)))
        np.add.at(table, (self.group, np.searchsorted(classes, of)), counted)
        return self.weights @ table

    def scores(self, predicted: np.ndarray, name: str) -> np.ndarray:
        """Of SCORES, for every resample; a class that neither the resample nor its predictions have is left out."""
        classes = np.union1d(self.labels, predicted)
        everything = np.ones(len(self.labels))
        right = self._counts(classes, self.labels, predicted == self.labels)
        true, said = (self._counts(classes, of, everything) for of in (self.labels, predicted))
        if name == "accuracy":
            return right.sum(axis=1) / true.sum(axis=1)
        top, bottom = (2 * right, true + said) if name == "macro_f1" else (right, true)
        return np.nanmean(np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0), axis=1)

    def interval(self, predicted: np.ndarray, name: str) -> Interval:
        """A score and where 95 % of its resamples lie."""
        return interval_of(self.scores(predicted, name))

    def difference(self, predicted: np.ndarray, other: np.ndarray, name: str) -> Interval:
        """How much higher the first one's score is."""
        return interval_of(self.scores(predicted, name) - self.scores(other, name))


def interval_of(scores: np.ndarray) -> Interval:
    """The first is the score; percentiles of the others. With few groups they may miss the score: it is let in."""
    value, (low, high) = float(scores[0]), np.percentile(scores[1:], [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))
