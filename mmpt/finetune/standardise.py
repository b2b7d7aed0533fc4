"""What a head's standardisation learns, before anything is trained."""

import numpy as np
import torch
from torch import Tensor, nn

from mmpt.finetune.evaluate import outputs_by_batch
from mmpt.finetune.heads import Standard
from mmpt.finetune.parts import Part
from mmpt.finetune.rows import Rows
from mmpt.finetune.tasks import Task
from mmpt.model import MaskedModel

SAMPLES = 512  # are looked at


def standardise(task: Task, model: MaskedModel, part: Part, *, batch_size: int) -> None:
    """From what the model gives for labelled training samples, evenly taken; the same on every rank."""
    standards = [module for module in model.objective.modules() if isinstance(module, Standard)]
    if not standards:
        return
    places = np.linspace(0, len(part.usable) - 1, min(SAMPLES, len(part.usable))).round().astype(np.int64)
    chosen = set(part.usable[places].tolist())
    known = [label if number in chosen else None for number, label in enumerate(part.known)]
    seen: dict[nn.Module, list[Tensor]] = {standard: [] for standard in standards}
    hooks = [own.register_forward_pre_hook(lambda own, rows: seen[own].append(rows[0])) for own in standards]
    for _ in outputs_by_batch(model, Rows(task, part.examples, known), batch_size=batch_size):
        pass
    for own, hook in zip(standards, hooks, strict=True):
        hook.remove()
        own.learn(torch.cat(seen[own]).float())
