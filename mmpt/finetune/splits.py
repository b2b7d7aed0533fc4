"""Samples that have no splits yet -> training, validation and test, by group and with classes in the same shares."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mmpt.errors import ConfigError, DataError
from mmpt.finetune.examples import RecordExamples, records_of

PARTS = 20  # folds that shares are made of: a twentieth each
BINS = 5  # of numbers, which are stratified by their quintiles


class Split(NamedTuple):
    """Samples as dicts, for `Task.fit(train, validation, test=test)`."""

    train: list[Mapping[str, Any]]
    validation: list[Mapping[str, Any]]
    test: list[Mapping[str, Any]]


def split(
    samples: Any, *, label: str | None = None, shares: Sequence[float | int] = (0.8, 0.1, 0.1), seed: int = 0
) -> Split:
    """Divide samples at random; those of one `group` stay together, and every part has its share of each class.

    Scikit-learn's StratifiedGroupKFold makes 20 folds (fewer where there are fewer groups), and each part takes some of
    them, so that shares are met to a twentieth, and as well as whole groups allow.

    Args:
        samples: a list of dicts, a dict of columns, or a pandas DataFrame; `group` is a key, and without it each sample
            is a group of its own.
        label: key of a class or a number (its fifths are kept), whose shares are kept; None, and labels that are
            neither, are not looked at.
        shares: of training, validation and test; together 1.
        seed: another one divides otherwise.

    Raises:
        ConfigError: shares that are none. DataError: too few groups, or samples that are no dicts.
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise ConfigError(
            f"shares: expected three that add up to 1, the first above 0, got {', '.join(map(str, shares))}"
        )
    records = records_of(samples)
    if records is None:
        raise DataError(f"expected a list of dicts, a dict of columns or a DataFrame, got {type(samples).__name__}")
    own = RecordExamples(records, list(dict.fromkeys(key for record in records for key in record)), label)
    _, group = np.unique(own.groups, return_inverse=True)
    folds = min(PARTS, int(group.max()) + 1)
    needed = sum(share > 0 for share in shares)
    if folds < needed:
        raise DataError(f"{folds} groups can't be divided into {needed} parts; give samples of more groups")
    of_part = _parts_of_folds(np.asarray(shares), folds)
    part = of_part[_fold_of(_strata(own.labels), group, folds, seed)]
    return Split(*([records[n] for n in np.flatnonzero(part == number).tolist()] for number in range(3)))


def _parts_of_folds(shares: np.ndarray, folds: int) -> np.ndarray:
    """Which part each fold goes to: whole folds by the largest remainder, at least one where there is a share."""
    counts = np.maximum(np.floor(shares * folds + 1e-9), shares > 0).astype(int)
    while counts.sum() < folds:
        counts[np.argmax(shares * folds - counts)] += 1
    while counts.sum() > folds:
        counts[np.argmax(np.where(counts > 1, counts - shares * folds, -np.inf))] -= 1
    return np.repeat(np.arange(len(shares)), counts)


def _fold_of(strata: np.ndarray, group: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each sample; classes that are rarer than folds are one."""
    names, stratum, often = np.unique(strata, return_inverse=True, return_counts=True)
    stratum = np.where(often[stratum] < folds, len(names), stratum)
    alone = group.max() + 1 == len(group)
    if (np.unique(stratum, return_counts=True)[1] < folds).any():
        stratum = np.zeros_like(stratum)  # what is rare is still too rare when taken together
    fold = np.empty(len(group), dtype=np.int64)
    kind, groups = (StratifiedKFold, None) if alone else (StratifiedGroupKFold, group)
    divided = kind(folds, shuffle=True, random_state=seed).split(np.zeros(len(group)), stratum, groups)
    for number, (_, members) in enumerate(divided):
        fold[members] = number
    return fold


def _strata(labels: Sequence[Any]) -> np.ndarray:
    """A name a sample: its class, the fifth that its number lies in, or none."""
    numbers = [own for own in labels if isinstance(own, (float, np.floating)) and not float(own).is_integer()]
    if numbers:
        values = np.array([np.nan if own is None else float(own) for own in labels])
        return np.digitize(values, np.nanquantile(values, np.linspace(0, 1, BINS + 1)[1:-1])).astype(str)
    return np.array([str(own) if isinstance(own, (str, bool, int, float, np.generic)) else "" for own in labels])
