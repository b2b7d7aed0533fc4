"""The samples of a fit by purpose, their labels, and what is refused before anything is trained."""

from typing import Any, NamedTuple

import numpy as np

from mmpt.errors import ConfigError, DataError
from mmpt.finetune.examples import Examples, ShardExamples
from mmpt.finetune.rows import known_labels, named, usable
from mmpt.finetune.tasks import Task


class Part(NamedTuple):
    """Samples of one purpose and their labels."""

    examples: Examples
    known: list[np.ndarray | None]

    @property
    def usable(self) -> np.ndarray:
        """Numbers of the samples that have a label."""
        return usable(self.known)

    @property
    def labels(self) -> list[np.ndarray]:
        """Of these."""
        return [label for label in self.known if label is not None]


def find_examples(task: Task, train: Any, validation: Any, test: Any) -> dict[str, Examples]:
    """By purpose; raises ConfigError where there is nothing to choose the best epoch by."""
    found = {"train": task.examples(train, split="train")}
    if validation is None:
        own = found["train"]
        if not isinstance(own, ShardExamples):
            raise ConfigError("validation: needed to choose the best epoch by; give samples that are not in train")
        validation = own.manifest.folder
    found["validation"] = task.examples(validation, split="validation")
    if test is not None:
        found["test"] = task.examples(test, split="test")
    return found


def parts_of(task: Task, examples: dict[str, Examples], notes: list[str], *, learn: bool = True) -> dict[str, Part]:
    """Labels as numbers; the task learns what it must know of the training ones, or knows it already."""
    for own in examples.values():
        if all(label is None for label in task.given(own)):
            raise DataError(f"{own.where}: no sample has {task.wanted}")
    if learn:
        task.facts = _learned(task, examples["train"])
    parts = {}
    for purpose, own in examples.items():
        known, unfit = known_labels(task, own, held=True)
        parts[purpose] = Part(own, known)
        if not len(parts[purpose].usable):
            raise DataError(f"{own.where}: no sample is left; the first that was left out: {unfit.first}")
        lack = len(known) - len(parts[purpose].usable) - unfit.samples
        if lack:
            notes.append(f"{lack} {purpose} samples have no {task.lack} and were left out")
        if unfit.samples:
            notes.append(f"{unfit.samples} {purpose} samples were left out, the first: {unfit.first}")
    return parts


def _learned(task: Task, examples: Examples) -> dict[str, Any]:
    """What there is to know of the training labels; raises DataError, which names the sample if it is one label's."""
    known = [(number, label) for number, label in enumerate(task.given(examples)) if label is not None]
    try:
        return task.learn([label for _, label in known])
    except DataError:
        for number, label in known:
            with named(task, examples, number):
                task.parse(label)
        raise
