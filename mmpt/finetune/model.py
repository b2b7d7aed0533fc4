"""A backbone and a head."""

from copy import deepcopy

import torch

from mmpt.finetune.objective import Supervised
from mmpt.finetune.tasks import Task
from mmpt.model import MaskedModel


def plain_model(task: Task, seed: int = 0) -> MaskedModel:
    """A copy of the encoder's backbone and a fresh head, all trainable but the encoders of streams that aren't used."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = task.head()
    backbone = deepcopy(task.encoder.backbone).requires_grad_(True)
    for name in backbone.encoders:
        if name not in task.inputs:
            backbone.encoder(name).requires_grad_(False)
    return MaskedModel(backbone, Supervised(head, task.loss, alone=task.alone)).to(task.encoder.device)
