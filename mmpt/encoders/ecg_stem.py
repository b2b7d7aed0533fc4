"""ECG through a convolutional stem over all leads at once (C-MELT, Pham et al. 2024, on wav2vec 2.0's stem)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu

from mmpt.encoders import Encoder
from mmpt.encoders.row_norm import RowNorm
from mmpt.encoders.strips import Strips
from mmpt.errors import ConfigError
from mmpt.randomness import number
from mmpt.tokens import Content, Shown, Tokens, another, gather
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
        return self.places(stop - start)

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
        return self.in_order(rows, size, (STRIDE + 1, len(self.leads)))

    def token_names(self, content: Content, row: int) -> list[str]:
        """Time."""
        places, valid = content.place[row].tolist(), content.valid[row].tolist()
        return [self.stretch_name(place) if real else "" for place, real in zip(places, valid, strict=True)]

    def encoder(self, width: int) -> "EcgStemEncoder":
        """Convolutions, a linear map and positions."""
        return EcgStemEncoder(self, width)


class EcgStemEncoder(Encoder):
    """Strips of all leads -> tokens. The first norm looks at the whole recording, so nothing is dropped before it.

    Convolutions whose stride is their kernel are linear maps of neighbours side by side, which is how they are computed
    here: one matrix product each, without moving the channels about.
    """

    tokenwise = False
    position: Tensor

    def __init__(self, stem: EcgStem, width: int) -> None:
        super().__init__()
        self.max_places = stem.max_places
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

    @property
    def neutral(self) -> float:
        """Of flags, too: no lead is shown."""
        return 0.0

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
            pairs = x.reshape(*x.shape[:2], x.shape[2] // 2, -1)
            x = gelu(convolution(pairs) if layer else self._normed(pairs, cast("nn.Linear", convolution), content))
        return self.projection(self.norm(x.squeeze(2)))

    def _normed(
        self, pairs: Float[Tensor, "B N T P"], convolution: nn.Linear, content: Content
    ) -> Float[Tensor, "B N T channels"]:
        """Over the time that a row has, all steps of its valid tokens."""
        counts = pairs.shape[1] * pairs.shape[2] if content.full else content.valid.sum(1) * pairs.shape[2]
        normed = self.first_norm(pairs.flatten(1, 2), convolution.weight.t(), counts)
        return normed.unflatten(1, pairs.shape[1:3])

    def settle(self, shown: Shown, size: int) -> Shown:
        """Convolutional positions, of what is shown alone: all else is 0 to them."""
        return self.positions.settle(shown, size) if self.convolutional else shown

    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Another token of the same recording."""
        return gather(self._features(content), another(content.valid, choice))

    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Sine-cosine over time."""
        return sincos(torch.arange(self.max_places).float(), width)


def _convolution(before: int, after: int) -> nn.Linear:
    """Of kernel 2 and stride 2, on two neighbours side by side."""
    convolution = nn.Linear(2 * before, after, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return convolution
