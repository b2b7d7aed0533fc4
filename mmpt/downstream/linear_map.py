"""A linear map from one set of features to another, by ridge regression (Hoerl and Kennard 1970)."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from sklearn.preprocessing import StandardScaler

STRENGTHS = tuple(
    10.0**exponent for exponent in range(-4, 5)
)  # of the penalty, in units of the mean squared singular value
WITHOUT_JUDGES = 1.0  # where there is nothing to judge by

Features = Float[np.ndarray, "n _"]
Map = Callable[[np.ndarray], np.ndarray]


class Ridge:
    """Both sides standardised on the rows that are fitted; one decomposition serves every strength."""

    def __init__(self, ask: Features, answer: Features) -> None:
        self.of_ask, self.of_answer = StandardScaler().fit(ask), StandardScaler().fit(answer)
        left, self.values, self.right = np.linalg.svd(np.asarray(self.of_ask.transform(ask)), full_matrices=False)
        self.projected = left.T @ self.scale(answer)

    def scale(self, answer: Features) -> Features:
        """The other side's features, standardised."""
        return np.asarray(self.of_answer.transform(answer))

    def predict(self, ask: Features, strength: float) -> Features:
        """What the other side's standardised features should be."""
        squares = self.values**2
        shrunk = self.values / (squares + strength * max(float(squares.mean()), 1e-12))
        return (np.asarray(self.of_ask.transform(ask)) @ self.right.T * shrunk) @ self.projected


def ridge(ask: Features, answer: Features, strength: float) -> tuple[Map, Map]:
    """The map, and what puts the other side's features on its scale."""
    fitted = Ridge(ask, answer)
    return lambda rows: fitted.predict(rows, strength), fitted.scale


def unit(features: Features) -> Features:
    """Rows of length 1; rows of zeros stay."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def choose_strength(ask: Features, answer: Features, groups: np.ndarray, folds: int) -> float:
    """Of the best mean reciprocal rank of the true halves, cross-validated over groups."""
    names, group = np.unique(groups, return_inverse=True)
    count = min(folds, len(names))
    if count < 2:
        return WITHOUT_JUDGES
    fold = group % count
    scores = np.zeros(len(STRENGTHS))
    for number in range(count):
        fit, judge = fold != number, fold == number
        own = Ridge(ask[fit], answer[fit])
        targets = unit(own.scale(answer[judge]))
        for place, strength in enumerate(STRENGTHS):
            similarity = unit(own.predict(ask[judge], strength)) @ targets.T
            scores[place] += float(np.mean(1 / (similarity >= similarity.diagonal()[:, None]).sum(1)))
    return STRENGTHS[int(scores.argmax())]
