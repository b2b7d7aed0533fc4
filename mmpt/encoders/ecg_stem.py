"""ECG through a convolutional stem over all leads at once (C-MELT, Pham et al. 2024, on wav2vec 2.0's stem)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu

from mmpt.encoders import Encoder
from mmpt.encoders.strips import Strips, another, only
from mmpt.errors import ConfigError
from mmpt.randomness import number
from mmpt.tokens import Content, Shown, Tokens, gather
from mmpt.trunk.conv_positions import ConvolutionalPositions
from mmpt.trunk.positions import sincos

LAYERS = 4  # each halves the rate
STRIDE = 2**LAYERS
MISSING, LEFT_OUT, SHOWN = 0, 1, 2  # what the last line of a token's values says of each lead


class Leads(NamedTuple):
    """A token's values, taken apart."""

    signal: Float[Tensor, "B N T C"]
    observed: Bool[Tensor, "B N 1 C"]
    shown: Bool[Tensor, "B N 1 C"]


def leads_of(values: Float[Tensor, "B N Y C"]) -> Leads:
    """Samples of every lead, whether it was observed, and whether it is shown; Y is a strip's T samples and a flag."""
    flag = values[:, :, STRIDE:]
    return Leads(values[:, :, :STRIDE], flag >= LEFT_OUT, flag >= SHOWN)


@dataclass(frozen=True)
class EcgStem(Strips):
    """Tokens of 16 samples of all leads; a missing lead is 0, the mean, throughout.

    Args:
        channels: of every convolution.
        lead_dropout: share of the leads, each for itself, that training leaves out of what is shown; one always stays.
        positions: convolutional over what is shown, or a fixed sine-cosine table over time.
        kernel: tokens that convolutional positions reach over. groups: of their channels; must divide the width.
    """

    channels: int = field(default=256, kw_only=True)
    lead_dropout: float = field(default=0.0, kw_only=True)
    positions: Literal["convolutional", "sincos"] = field(default="convolutional", kw_only=True)
    kernel: int = field(default=128, kw_only=True)
    groups: int = field(default=16, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.lead_dropout < 1:
            raise ConfigError(f"lead_dropout: expected a share from 0 to below 1, got {self.lead_dropout}")
        if min(self.channels, self.kernel, self.groups) < 1:
            raise ConfigError(
                f"channels, kernel, groups: expected at least 1, got {self.channels}, {self.kernel} and {self.groups}"
            )
        super().__post_init__()

    @property
    def stride(self) -> int:
        """Of the stem."""
        return STRIDE

    def num_tokens(self, start: int, stop: int) -> int:
        """One a strip, of all leads together."""
        return self.strips(stop - start)

    def read(self, value: Any, start: int, stop: int, draw: int | None) -> np.ndarray:
        """Samples of all leads and a line of flags; float32 (N, 17, C)."""
        signal = self.signal(value, start, stop)
        flags = self._flags(~np.isnan(signal[0]), draw)
        strips = np.where(flags == MISSING, np.float32(0), signal).reshape(-1, STRIDE, len(self.leads))
        lines = np.broadcast_to(flags.astype(np.float32), (len(strips), 1, len(flags)))
        return np.concatenate([strips, lines], axis=1)

    def _flags(self, observed: np.ndarray, draw: int | None) -> np.ndarray:
        """Missing, left out or shown."""
        flags = np.where(observed, SHOWN, MISSING)
        if draw is None or not self.lead_dropout:
            return flags
        lots = np.asarray([number(draw, f"lead dropout {lead}") for lead in self.leads])
        left_out = observed & (lots < self.lead_dropout)
        left_out[np.where(observed, lots, -1.0).argmax()] = False
        return np.where(left_out, LEFT_OUT, flags)

    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """One recording a row; values (B, N, 17, C) float32."""
        recordings = [only(row) for row in rows]
        shape = len(rows), size or max([len(strips) for strips in recordings if strips is not None] + [1])
        values = np.zeros((*shape, STRIDE + 1, len(self.leads)), np.float32)
        valid = np.zeros(shape, dtype=bool)
        for row, strips in enumerate(recordings):
            if strips is not None:
                values[row, : len(strips)], valid[row, : len(strips)] = strips, True
        place = np.broadcast_to(np.arange(shape[1]), shape).copy()
        arrays = (values, valid, valid.copy(), np.zeros_like(place), place * valid)
        full = bool(valid.all())
        tensors = (torch.from_numpy(array) for array in arrays)
        return Content(*tensors, full=full, observed_count=shape[1] if full else None)

    def token_names(self, content: Content, row: int) -> list[str]:
        """Time."""
        places, valid = content.place[row].tolist(), content.valid[row].tolist()
        return [self.stretch_name(place) if real else "" for place, real in zip(places, valid, strict=True)]

    def encoder(self, width: int) -> "EcgStemEncoder":
        """Convolutions, a linear map and positions."""
        return EcgStemEncoder(self, width)


class RowNorm(nn.Module):
    """GroupNorm with one group a channel, whose mean and variance are those of a row's valid tokens alone.

    nn.GroupNorm would count padding, and a row would change with the company that it has in a batch.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(
        self, x: Float[Tensor, "B N T channels"], valid: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B N T channels"]:
        """`valid` None: all of them. Elsewhere x has to be 0."""
        steps = x.float().flatten(1, 2)  # B NT channels
        there = None if valid is None else valid.repeat_interleave(x.shape[2], dim=1).unsqueeze(2)
        count = steps.shape[1] if there is None else there.sum(dim=1, keepdim=True).clamp(min=1)
        centred = steps - steps.sum(dim=1, keepdim=True) / count
        if there is not None:
            centred = torch.where(there, centred, 0.0)
        variance = centred.square().sum(dim=1, keepdim=True) / count
        scale = (variance + self.eps).rsqrt() * self.weight
        return torch.addcmul(self.bias.to(scale.dtype), centred, scale).to(x.dtype).view_as(x)


class EcgStemEncoder(Encoder):
    """Strips of all leads -> tokens. The first norm looks at the whole recording, so nothing is dropped before it.

    Convolutions whose stride is their kernel are linear maps of neighbours side by side, which is how they are computed
    here: one matrix product each, without moving the channels about.
    """

    tokenwise = False
    position: Tensor

    def __init__(self, stem: EcgStem, width: int) -> None:
        super().__init__()
        self.max_strips = stem.max_strips
        sizes = [len(stem.leads)] + [stem.channels] * LAYERS
        self.convolutions = nn.ModuleList(_convolution(before, after) for before, after in pairwise(sizes))
        self.first_norm = RowNorm(stem.channels)
        self.norm = nn.LayerNorm(stem.channels)
        self.projection = nn.Linear(stem.channels, width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.convolutional = stem.positions == "convolutional"
        if self.convolutional:
            self.positions = ConvolutionalPositions(width, kernel=stem.kernel, groups=stem.groups)
        else:
            self.register_buffer("position", self.place_table(width), persistent=False)

    def forward(self, content: Content) -> Tokens:
        """Values (B, N, 17, C) -> tokens (B, N, D)."""
        x = self._features(content)
        nowhere = torch.zeros_like(content.place)
        position = torch.zeros_like(x) if self.convolutional else embedding(content.place, self.position).to(x.dtype)
        return Tokens(x, position, nowhere, content.valid, content.segment, nowhere, content.full)

    def _features(self, content: Content) -> Float[Tensor, "B N D"]:
        leads = leads_of(content.values)
        shown = leads.shown & content.valid[:, :, None, None]
        x = torch.where(shown, leads.signal, 0.0).to(self.projection.weight.dtype)  # B N 16 C
        for layer, convolution in enumerate(self.convolutions):
            x = convolution(x.reshape(*x.shape[:2], x.shape[2] // 2, -1))
            x = gelu(x if layer else self.first_norm(x, None if content.full else content.valid))
        return self.projection(self.norm(x.squeeze(2)))

    def settle(self, shown: Shown, size: int) -> Shown:
        """Convolutional positions, of what is shown alone: all else is 0 to them."""
        return self.positions.settle(shown, size) if self.convolutional else shown

    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Another token of the same recording."""
        return gather(self._features(content), another(content.valid, choice))

    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Sine-cosine over time."""
        return sincos(torch.arange(self.max_strips).float(), width)


def _convolution(before: int, after: int) -> nn.Linear:
    """Of kernel 2 and stride 2, on two neighbours side by side."""
    convolution = nn.Linear(2 * before, after, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return convolution
