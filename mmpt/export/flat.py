"""A backbone's inputs and latents as plain tensors by name: what ONNX and transformers hand over.

A stream `ecg` has `ecg_values` (B N ...) and `ecg_valid` (B N), as its modality collates them, and `ecg_place` (B N)
where a token's place is not its number in the row. Rows hold one document each, padding stands behind it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.image import Image
from mmpt.encoders.video import Video
from mmpt.errors import DataError
from mmpt.tokens import Batch, Content

FIXED = (Image, Video)  # as many tokens in every row
VALUES, VALID, PLACE = "values", "valid", "place"


def input_names(stream: str, modality: Modality) -> list[str]:
    """Of one stream, in order."""
    parts = (VALUES, VALID) if modality.places_count_up else (VALUES, VALID, PLACE)
    return [f"{stream}_{part}" for part in parts]


def latents_name(stream: str) -> str:
    """Of an output."""
    return f"{stream}_latents"


def flat_inputs(streams: Mapping[str, Content], modalities: Mapping[str, Modality]) -> dict[str, Tensor]:
    """Collated contents -> tensors by name."""
    inputs = {}
    for stream, content in streams.items():
        tensors = {VALUES: content.values, VALID: content.valid, PLACE: content.place}
        for name in input_names(stream, modalities[stream]):
            inputs[name] = tensors[name.rpartition("_")[2]]
    return inputs


def batch_of(inputs: Mapping[str, Tensor], modalities: Mapping[str, Modality]) -> Batch:
    """Tensors by name -> a batch of the streams that are there.

    Raises:
        DataError: a stream with some of its inputs, no stream at all, or a name that is no input.
    """
    _check_names(inputs, modalities)
    streams = {
        stream: _content(inputs, stream, modality)
        for stream, modality in modalities.items()
        if f"{stream}_{VALUES}" in inputs
    }
    valid = next(iter(streams.values())).valid
    row = torch.zeros_like(valid[:, 0], dtype=torch.int64)
    return Batch(streams, row, row, "flat", 0)


def _check_names(inputs: Mapping[str, Tensor], modalities: Mapping[str, Modality]) -> None:
    every = {stream: input_names(stream, modality) for stream, modality in modalities.items()}
    known = [name for names in every.values() for name in names]
    for name in inputs:
        if name not in known:
            raise DataError(f"no input '{name}'; the inputs are {', '.join(known)}")
    for stream, names in every.items():
        given = [name for name in names if name in inputs]
        if given and given != names:
            missing = next(name for name in names if name not in inputs)
            raise DataError(f"stream '{stream}' lacks '{missing}'; it takes {', '.join(names)}")
    if not inputs:
        raise DataError(f"no input at all; the inputs are {', '.join(known)}")


def _content(inputs: Mapping[str, Tensor], stream: str, modality: Modality) -> Content:
    values, valid = inputs[f"{stream}_{VALUES}"], inputs[f"{stream}_{VALID}"].bool()
    if modality.places_count_up:
        place = torch.arange(valid.shape[1], device=valid.device) * valid
    else:
        place = inputs[f"{stream}_{PLACE}"].long()
    return Content(values, valid, valid, torch.zeros_like(place), place)
