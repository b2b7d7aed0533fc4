"""The batches that an export of any number of streams is compared on."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmpt.downstream.values import raw_value
from mmpt.encoders import Modality
from mmpt.export.fixtures import fixtures_of
from mmpt.export.flat import batch_of, flat_inputs
from mmpt.model import Backbone

COMPARED = (
    "latents of made-up samples of three lengths in one padded batch, of one sample alone, and of samples that lack a "
    "stream where there are several; float32, on the CPU"
)

Latents = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]  # inputs by name -> (B, N, D) by stream


def example_inputs(modalities: Mapping[str, Modality]) -> list[dict[str, Tensor]]:
    """Inputs by name: three samples, one of them alone, and where there are several streams three that lack one."""
    rows = {
        name: [modality.read(raw_value(modality, raw), 0, modality.limit, None) for raw in fixtures_of(modality)]
        for name, modality in modalities.items()
    }
    batches = [{name: [[row] for row in own] for name, own in rows.items()}]
    batches.append({name: own[1:2] for name, own in batches[0].items()})
    if len(rows) > 1:
        lacking = enumerate(batches[0].items())
        batches.append({name: [[], *own[1:]] if number % 2 else [*own[:2], []] for number, (name, own) in lacking})
    return [
        flat_inputs({name: modalities[name].collate(own, None) for name, own in batch.items()}, modalities)
        for batch in batches
    ]


@torch.no_grad()
def differences(backbone: Backbone, modalities: Mapping[str, Modality], latents: Latents) -> dict[str, float]:
    """By stream, over all batches."""
    largest = dict.fromkeys(modalities, 0.0)
    for inputs in example_inputs(modalities):
        batch = batch_of(inputs, modalities)
        ours, theirs = backbone(batch), latents(inputs)
        for name, tokens in ours.items():
            largest[name] = max(largest[name], furthest(tokens.x, theirs[name], batch.streams[name].valid))
    return largest


def furthest(ours: Float[Tensor, "B N D"], theirs: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"]) -> float:
    """The largest absolute difference where there is no padding; infinite where one is no number."""
    return float((ours - theirs)[valid].abs().nan_to_num(nan=math.inf).max())
