"""What a task changed of its encoder alone, beside the head, for many tasks on one encoder.

A bit a weight for masks (Zhao et al. 2020), two vectors a norm (Zhao et al. 2023).
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmpt.build import load_weights
from mmpt.downstream.encoder import Encoder, weights_sha256
from mmpt.errors import CheckpointError, ConfigError
from mmpt.finetune.model import plain_model
from mmpt.finetune.saved import plain_of, task_of
from mmpt.finetune.tasks import Task

KEPT, BACKBONE = "kept.", "backbone."


def save_adapter(task: Task, file: str | Path) -> Path:
    """Write a task that changed vectors of its encoder or zeroed weights: these and the head.

    `mask_tuning` and `mask_finetuning` leave ceil(n / 8) bytes for n weights of a layer, `norm_only` vectors.
    Raises ConfigError where the task is not fitted, or where any matrix of its encoder has other weights than before.
    """
    file = Path(file)
    if task.model is None:
        raise ConfigError("the task has not been fitted yet; call fit first")
    before, tensors = task.encoder.backbone.state_dict(), {}
    for name, value in task.model.state_dict().items():
        own = name.removeprefix(BACKBONE)
        if own != name and torch.equal(value, before[own]):
            continue
        if own == name or value.ndim == 1:
            tensors[name] = value.cpu().contiguous()
        else:
            tensors[KEPT + own] = _packed(own, value.cpu(), before[own].cpu())
    source = weights_sha256(task.encoder, task.encoder.run or Path())
    facts = {"task": json.dumps(plain_of(task)), "source_sha256": source}
    staged = file.with_name(f".{file.name}.staged")
    save_file(tensors, staged, facts)
    return staged.replace(file)


def load_adapter(file: str | Path, encoder: Encoder) -> Task:
    """The task on the encoder that it was fitted on, ready to predict; the encoder itself stays as it is.

    Raises:
        CheckpointError: no adapter.
        ConfigError: the encoder has other weights than the task's.
    """
    try:
        with safe_open(file, "pt") as opened:
            facts = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        plain = json.loads(facts["task"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: is no adapter that save_adapter wrote ({error})") from error
    if facts["source_sha256"] != weights_sha256(encoder, encoder.run or Path()):
        raise ConfigError(
            f"{file}: is of an encoder with other weights than {encoder.run}; load the one it was fitted on"
        )
    task = task_of(plain["type"], plain["settings"], plain["facts"], encoder)
    model = plain_model(task)
    weights = {BACKBONE + name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    for name, value in tensors.items():
        own = BACKBONE + name.removeprefix(KEPT)
        if name.startswith(KEPT):
            weights[own] *= _unpacked(value, weights[own])
        else:
            weights[name] = value
    load_weights(model, weights)
    task.model = model.to(encoder.device).eval()
    return task


def _packed(name: str, after: Tensor, before: Tensor) -> Tensor:
    kept = after == before
    if not (kept | (after == 0)).all():
        raise ConfigError(
            f"'{name}' has other weights than before, not only zeros; save the whole task with result.save"
        )
    return torch.from_numpy(np.packbits(kept.numpy().ravel()))


def _unpacked(bits: Tensor, like: Tensor) -> Tensor:
    kept = np.unpackbits(bits.numpy(), count=like.numel()).reshape(tuple(like.shape))
    return torch.from_numpy(kept).to(like.dtype).to(like.device)
