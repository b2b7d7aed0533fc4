"""Frame features that units are clusters of: MFCCs, or the outputs of a block of a run's trunk."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from mmpt.data.manifest import Manifest
from mmpt.data.mfcc import mfcc_of, mfcc_rate, mfcc_settings
from mmpt.data.pieces import cut_facts, token_rate
from mmpt.downstream.encoder import Encoder, load, weights_sha256
from mmpt.downstream.units.pieces import frames_of
from mmpt.errors import DataError
from mmpt.tokens import Batch, Content


class FrameFeatures(ABC):
    """Decoded fields of one stream -> frames. Pickles, so that other processes can compute them as well.

    Args:
        stream: the field that is read.
        rate: frames a second; None: one for each observed token.
        settings: what a codebook keeps, so that its labels can't be taken for others.
    """

    stream: str
    rate: Fraction | None
    settings: Mapping[str, Any]

    @abstractmethod
    def of(self, values: Sequence[Any]) -> list[Float[np.ndarray, "_ P"]]:
        """Frames of each sample, of its own alone: which samples come together changes nothing."""


class MfccFeatures(FrameFeatures):
    """Of HuBERT's first iteration."""

    def __init__(self, manifest: Manifest, stream: str) -> None:
        field = manifest.fields[stream]
        if field.kind != "audio":
            raise DataError(f"{manifest.folder}: field '{stream}' is {field.kind}, and MFCCs are of sound")
        self.stream, self.rate = stream, mfcc_rate(int(field.facts["sample_rate"]))
        self.settings = {**mfcc_settings(), "sample_rate": int(field.facts["sample_rate"])}

    def of(self, values: Sequence[Any]) -> list[Float[np.ndarray, "_ P"]]:
        """(N, 39) of each."""
        return [mfcc_of(value) for value in values]


class _Loaded:
    """The encoder of a run; pickled, it is loaded anew, on the other process's device."""

    def __init__(self, run: Path, step: int | None, untrained: bool) -> None:
        self.run, self.untrained = run, untrained
        self.encoder = load(run, step=step, untrained=untrained)
        self.weights = "untrained" if untrained else weights_sha256(self.encoder, run)[:16]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Loaded, (self.run, self.encoder.step, self.untrained)


class LayerFeatures(FrameFeatures):
    """What block `layer` (counted from 1) of a run's trunk gives, nothing hidden and no final norm.

    Args:
        run: the run folder.
        stream: of the run.
        layer: 1 to the trunk's depth.
        step: of the checkpoint; the newest by default.
        untrained: the weights that the run began with, as a control.
    """

    def __init__(self, run: Path, stream: str, *, layer: int, step: int | None = None, untrained: bool = False) -> None:
        self.loaded, self.stream = _Loaded(run, step, untrained), stream
        if stream not in self.encoder.modalities:
            raise DataError(f"{run}: no stream '{stream}'; it has {', '.join(self.encoder.modalities)}")
        self.rate = token_rate(self.encoder.modalities[stream])
        self._look_at(layer)

    @property
    def encoder(self) -> Encoder:
        """Of the run."""
        return self.loaded.encoder

    @property
    def depth(self) -> int:
        """Blocks of the trunk."""
        return len(blocks_of(self.encoder))

    def of_layer(self, layer: int) -> "LayerFeatures":
        """Of another block, with the same weights in memory."""
        other = copy(self)
        other._look_at(layer)
        return other

    def _look_at(self, layer: int) -> None:
        if not 1 <= layer <= self.depth:
            raise DataError(f"{self.loaded.run}: layer: expected 1 to {self.depth}, the trunk's depth, got {layer}")
        weights = self.loaded.weights
        self.layer = layer
        cut = cut_facts(self.encoder.modalities[self.stream])
        self.settings = {"type": "layer", "layer": layer, "weights": weights, "step": self.encoder.step, **cut}

    def of(self, values: Sequence[Any]) -> list[Float[np.ndarray, "_ P"]]:
        """(N, D) of each; one that is longer than the run reads at once, in the pieces that training cuts it into."""
        return frames_of(self.encoder.modalities[self.stream], values, self._of_pieces)

    def _of_pieces(self, content: Content) -> Float[torch.Tensor, "B N D"]:
        return block_output(self.encoder, self.stream, alone(self.stream, content), self.layer)


def alone(stream: str, content: Content) -> Batch:
    """A batch of one stream, of which nothing is drawn."""
    numbers = torch.arange(len(content.valid))
    return Batch({stream: content}, numbers, torch.zeros_like(numbers), "units", 0)


def blocks_of(encoder: Encoder) -> nn.ModuleList:
    """Of the trunk."""
    return cast("nn.ModuleList", encoder.backbone.trunk.blocks)


@torch.no_grad()
def block_output(encoder: Encoder, stream: str, batch: Batch, layer: int) -> Float[torch.Tensor, "B N D"]:
    """What a block of the trunk (from 1) gives for a batch of one stream, on the host."""
    found: list[torch.Tensor] = []
    block = blocks_of(encoder)[layer - 1]
    hook = block.register_forward_hook(lambda _, __, output: found.append(output[0]))
    try:
        encoder.backbone(batch.to(encoder.device))
    finally:
        hook.remove()
    return found[0].float().cpu()
