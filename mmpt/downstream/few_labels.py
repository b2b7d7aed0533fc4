"""How a probe does with a share of the training labels: several stratified draws of each, mean and deviation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmpt.downstream.classify import Bootstrap, Choice, Fold, grouped_folds, interval_of
from mmpt.downstream.labelled import Labelled
from mmpt.downstream.result import Curve, Interval, SharePoint
from mmpt.errors import DataError

FEW_FOLDS = 3  # of cross-validation inside a draw
SHOWN_CLASSES = 5

Probe = Callable[[Sequence[Fold], np.ndarray], Choice]  # folds and rows to fit on -> what the test rows are


class Drawn(NamedTuple):
    """One draw: rows to fit on and what is judged on inside them."""

    rows: np.ndarray
    folds: list[Fold]


def check_shares(shares: Iterable[float | int], draws: int) -> tuple[float, ...]:
    """In order, each once; raises DataError for what is no share."""
    found = tuple(sorted({float(share) for share in shares}))
    for share in found:
        if not 0 < share <= 1:
            raise DataError(f"shares: expected numbers above 0 and up to 1, got {share:g}")
    if draws < 1:
        raise DataError(f"draws: expected at least 1, got {draws}")
    return found


def stratified(labels: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Places of round(share x n) samples, one at least, every class as near to its share as whole samples allow.

    Each class gets its whole samples, and what is left goes to the largest remainders; lots decide between equal ones.
    A class may get none.
    """
    counts = np.bincount(labels)
    total = max(1, round(share * len(labels)))
    quotas = counts * (total / len(labels))
    sizes = np.floor(quotas + 1e-9).astype(np.int64)
    order = np.lexsort((random.random(len(counts)), -(quotas - sizes).round(9)))
    sizes[order[: total - sizes.sum()]] += 1
    chosen = [random.choice(np.flatnonzero(labels == name), size, replace=False) for name, size in enumerate(sizes)]
    return np.sort(np.concatenate(chosen))


def draws_of(labelled: Labelled, share: float, draws: int, seed: int) -> list[Drawn]:
    """Rows of each draw, and folds inside it over groups: no label beside the drawn ones chooses a setting."""
    train, found = labelled.indices("train"), []
    for number in range(draws):
        random = np.random.default_rng([seed, number, round(share * 1e9)])
        rows = train[stratified(labelled.labels[train], share, random)]
        own = labelled.labels[rows]
        several = len(np.unique(own)) > 1
        folds = grouped_folds(rows, own, labelled.groups[rows], seed, FEW_FOLDS) if several else []
        found.append(Drawn(rows, folds))
    return found


def missing_classes(labelled: Labelled, share: float, drawn: Sequence[Drawn]) -> str:
    """A sentence where a draw leaves a class without a sample; empty where none does."""
    train = labelled.labels[labelled.indices("train")]
    lacks = [np.setdiff1d(train, labelled.labels[own.rows]) for own in drawn]
    short = [lack for lack in lacks if len(lack)]
    if not short:
        return ""
    names = [labelled.classes[name] for name in np.unique(np.concatenate(short))]
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    verb = "has" if len(names) == 1 else "have"
    return (
        f"share {share:g}, {len(drawn[0].rows)} labels: {', '.join(names[:SHOWN_CLASSES])}{more} {verb} no sample in "
        f"{len(short)} of {len(drawn)} draws, and can't be found there"
    )


class Reference(NamedTuple):
    """What the whole training split gives: the curve's end."""

    samples: int
    predicted: Mapping[str, np.ndarray]  # of the test rows, by kind of features


def curves(
    probes: Mapping[str, Probe],
    labelled: Labelled,
    whole: Reference,
    bootstrap: Bootstrap,
    *,
    score: str,
    shares: Sequence[float],
    draws: int,
    seed: int,
    shown: Callable[[Sequence[Any], str], Iterable[Any]],
) -> tuple[tuple[Curve, ...], tuple[str, ...]]:
    """A curve for every kind of features, and sentences on what the shares lack.

    Settings are chosen by cross-validation inside the drawn labels, and where those are too few for it they are fixed;
    share 1 is the table's own figure, once. All features are judged on the same draws and resamples.
    """
    points: dict[str, list[SharePoint]] = {name: [] for name in probes}
    notes: list[str] = []
    for share in shares:
        drawn = draws_of(labelled, share, draws, seed) if share < 1 else []
        notes += [said] if drawn and (said := missing_classes(labelled, share, drawn)) else []
        guesses = {
            name: [_predicted(probe, own, labelled) for own in drawn] if drawn else [whole.predicted[name]]
            for name, probe in shown(list(probes.items()), f"share {share:g}")
        }
        samples = len(drawn[0].rows) if drawn else whole.samples
        tables = {name: _scores(bootstrap, own, score) for name, own in guesses.items()}
        for name, table in tables.items():
            gain = (
                over_draws(table, tables["untrained"], seed) if name == "pretrained" and "untrained" in tables else None
            )
            own = SharePoint(share, samples, len(table), over_draws(table, None, seed), float(table[:, 0].std()), gain)
            points[name].append(own)
    return tuple(Curve(name, tuple(own)) for name, own in points.items()), tuple(notes)


def _predicted(probe: Probe, drawn: Drawn, labelled: Labelled) -> np.ndarray:
    """With a single class there is nothing to fit: it is what all test samples are said to be."""
    own = labelled.labels[drawn.rows]
    if len(np.unique(own)) == 1:
        return np.full(len(labelled.indices("test")), own[0])
    return probe(drawn.folds, drawn.rows).predicted


def _scores(bootstrap: Bootstrap, guesses: Sequence[np.ndarray], score: str) -> np.ndarray:
    """Draws x resamples; the first resample is the test split as it is."""
    return np.stack([bootstrap.scores(predicted, score) for predicted in guesses])


def over_draws(table: np.ndarray, other: np.ndarray | None, seed: int) -> Interval:
    """The mean over draws, or its difference from another's, with draws resampled along with the test groups."""
    difference = table if other is None else table - other
    count, resamples = difference.shape
    picks = np.random.default_rng(seed).integers(count, size=(count, resamples))
    picks[:, 0] = np.arange(count)
    return interval_of(np.take_along_axis(difference, picks, axis=0).mean(0))
