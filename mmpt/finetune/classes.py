"""Classes by name: what counts as one, how they are counted, and how guesses at them are scored."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from mmpt.errors import DataError

UNKNOWN = -1


def name_of(label: Any) -> str:
    """A name as it is, or a whole number; raises DataError for anything else."""
    if isinstance(label, str):
        return label
    if isinstance(label, (bool, int, np.integer, np.bool_)):
        return str(int(label))
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        return str(int(label))
    raise DataError(f"expected the name or number of one class, got {label!r}")


def class_facts(counts: Counter[str], label: str | None, what: str, several: int = 2) -> dict[str, Any]:
    """Classes in order and how often each is there; raises DataError where they are no classes.

    Args:
        counts: by name.
        label: for messages.
        what: was counted.
        several: names of which each is there twice at most on average, and which are more than this, are no classes.
    """
    total = sum(counts.values())
    if len(counts) < 2:
        only = f"is '{next(iter(counts))}' in" if counts else "has no class in any of"
        raise DataError(f"label '{label}' {only} all {total} training {what}")
    if len(counts) > max(total / 2, several):
        raise DataError(
            f"label '{label}' has {len(counts)} values in {total} training {what}, which are no "
            "classes; numbers are for Regressor"
        )
    classes = sorted(counts)
    return {"classes": classes, "counts": [counts[name] for name in classes]}


def are_numbers(labels: Iterable[Any]) -> bool:
    """Whether every class came as a number, so that predictions are to be numbers, too; None is no class."""
    return not any(isinstance(label, str) for label in labels)


def as_given(facts: Mapping[str, Any], numbers: Iterable[int]) -> list[str | int]:
    """Classes by number, in the form that their labels had."""
    names = [facts["classes"][number] for number in numbers]
    return [int(name) for name in names] if facts.get("numbers") else names


def class_number(name: str, classes: Sequence[str]) -> int:
    """Its place among the classes; raises DataError where it has none."""
    if name not in classes:
        raise DataError(f"'{name}' is no class of the training samples, which have {', '.join(classes[:10])}")
    return classes.index(name)


# ---- many guesses a sample


def confusions(
    true: Sequence[Int[np.ndarray, "..."]], guesses: Sequence[Int[np.ndarray, "..."]], size: int
) -> Int[np.ndarray, "B V V"]:
    """How often each class (row) was taken for each (column), sample by sample; unknown places count nothing."""
    found = np.zeros((len(true), size, size), dtype=np.int32)
    for number, (own, said) in enumerate(zip(true, guesses, strict=True)):
        known = own != UNKNOWN
        pairs = own[known].astype(np.int64) * size + said[known]
        found[number] = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)
    return found


def _of_confusion(score: Any, counts: Int[np.ndarray, "B V V"]) -> float:
    """A score of scikit-learn over all places of all samples: each pair of classes stands once and weighs its count."""
    every = counts.sum(0)
    true, guess = np.nonzero(every)
    return float(score(true, guess, sample_weight=every[true, guess])) if len(true) else float("nan")


accuracy = partial(_of_confusion, accuracy_score)
macro_f1 = partial(_of_confusion, partial(f1_score, average="macro"))
mean_iou = partial(_of_confusion, partial(jaccard_score, average="macro"))
