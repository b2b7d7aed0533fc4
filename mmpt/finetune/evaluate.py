"""What a fitted model says of samples, and how good that is."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mmpt.downstream.encoder import CutWarning
from mmpt.errors import DataError
from mmpt.finetune.examples import Examples
from mmpt.finetune.metrics import Score, intervals
from mmpt.finetune.objective import Supervised
from mmpt.finetune.rows import Known, Rows, known_labels, usable
from mmpt.finetune.tasks import Task
from mmpt.model import MaskedModel
from mmpt.tokens import Batch


class Judged(NamedTuple):
    """Of some samples, in order: what would have been right, and what was said."""

    true: list[np.ndarray]
    scores: list[np.ndarray]
    cut: str = ""  # how many of them are longer than the encoder takes, in words


def outputs_by_batch(model: MaskedModel, rows: Rows, *, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of the samples that have a label, or of all samples where no labels are given, and the outputs for them.

    Both on the host; the model is in eval mode meanwhile.
    """
    objective, device = cast("Supervised", model.objective), next(model.parameters()).device
    numbers = np.arange(len(rows.examples)) if rows.known is None else usable(rows.known)
    training = model.training
    model.eval()
    for start in range(0, len(numbers), batch_size):
        batch = rows.batch(numbers[start : start + batch_size].tolist())
        with torch.no_grad():
            outputs = objective.outputs(model.backbone, batch.to(device)).cpu()
        yield batch, outputs
    model.train(training)


def judged(task: Task, model: MaskedModel, examples: Examples, known: Known | None, *, batch_size: int) -> Judged:
    """Of the samples that have a label, as `known_labels` gives them; None: of all samples, and nothing is right."""
    found, rows = Judged([], []), Rows(task, examples, known)
    for batch, outputs in outputs_by_batch(model, rows, batch_size=batch_size):
        found.scores.extend(task.scores(outputs, batch))
        if known is not None:
            found.true.extend(task.truth(batch))
    if not rows.cut:
        return found
    limits = ", ".join(f"{name} {task.encoder.modalities[name].limit}" for name in task.inputs)
    told = f"{rows.cut} of {len(found.scores)} samples were cut, being longer than the encoder takes ({limits})"
    return found._replace(cut=told)


def said_of(task: Task, examples: Examples, *, batch_size: int) -> list[np.ndarray]:
    """Scores of all samples; a `CutWarning` says how many were too long."""
    found = judged(task, task.fitted_model(), examples, None, batch_size=batch_size)
    _warn(found)
    return found.scores


def _warn(found: Judged) -> None:
    if found.cut:
        warnings.warn(found.cut, CutWarning, stacklevel=3)


def evaluated(task: Task, model: MaskedModel, examples: Examples, *, batch_size: int, seed: int) -> dict[str, Score]:
    """Every metric with its interval and the trivial guess's, over the samples that have a label."""
    known, _ = known_labels(task, examples)
    if not len(usable(known)):
        raise DataError(f"{examples.where}: no sample has {task.wanted}")
    found = judged(task, model, examples, known, batch_size=batch_size)
    _warn(found)
    groups = np.array(examples.groups)[usable(known)]
    own = intervals(task.metrics, task.evidence(found.true, found.scores), groups, seed)
    trivial = task.trivial(found.true)
    return {name: Score(value.value, value.low, value.high, trivial[name]) for name, value in own.items()}
