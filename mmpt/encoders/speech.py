"""Speech as frames of a convolutional stem over the waveform (HuBERT, Hsu et al. 2021, on wav2vec 2.0's stem)."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmpt.encoders import Encoder
from mmpt.encoders.recording import SMALLEST_STD
from mmpt.encoders.sound import Sound
from mmpt.encoders.wave_stem import EPS, WaveStem, hop_of, window_of
from mmpt.errors import ConfigError
from mmpt.tokens import Content, Shown, Tokens, another, gather
from mmpt.trunk.conv_positions import ConvolutionalPositions
from mmpt.trunk.positions import sincos

STEM = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))  # 25 ms every 20 ms, of 16 kHz


@dataclass(frozen=True)
class Speech(Sound):
    """Frames of overlapping windows of the waveform; samples behind the last whole frame are left out.

    Args:
        normalize_wave: mean 0 and variance 1 of every stretch, as HuBERT's large models have it; the base model none.
        stem: (kernel, stride) of every convolution; the defaults give 25 ms every 20 ms of 16 kHz.
        channels: of every convolution.
        conv_bias: of the convolutions.
        norm: LayerNorm after every convolution (large), or GroupNorm over a row's time after the first (base).
        positions: a convolution over the shown tokens, a fixed sine-cosine table, or rotary attention.
        kernel: tokens that convolutional positions look at. groups: of their channels; must divide the trunk's width.
        gradient_scale: of the gradient that enters the stem; HuBERT's base model has 0.1.
    """

    normalize_wave: bool = field(default=True, kw_only=True)
    stem: tuple[tuple[int, int], ...] = field(default=STEM, kw_only=True)
    channels: int = field(default=512, kw_only=True)
    conv_bias: bool = field(default=False, kw_only=True)
    norm: Literal["group", "layer"] = field(default="layer", kw_only=True)
    positions: Literal["convolutional", "sincos", "rotary"] = field(default="convolutional", kw_only=True)
    kernel: int = field(default=128, kw_only=True)
    groups: int = field(default=16, kw_only=True)
    gradient_scale: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        for number, (kernel, stride) in enumerate(self.stem):
            if not 1 <= stride <= kernel:
                raise ConfigError(f"stem.{number}: expected 1 <= stride <= kernel, got ({kernel}, {stride})")
        if not self.stem or self.channels < 1:
            raise ConfigError(f"stem, channels: expected one layer and channel at least, got {self.channels} channels")
        if self.gradient_scale < 0:
            raise ConfigError(f"gradient_scale: expected 0 or more, got {self.gradient_scale}")
        super().__post_init__()

    @property
    def window(self) -> int:
        """Samples that a frame looks at."""
        return window_of(self.stem)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return hop_of(self.stem)

    @property
    def shortest(self) -> int:
        """A window."""
        return self.window

    @property
    def step(self) -> int:
        """A hop."""
        return self.hop

    @property
    def numbers(self) -> int:
        """A window."""
        return self.window

    def read(self, value: tuple[np.ndarray, int], start: int, stop: int, draw: int | None) -> np.ndarray:
        """The window of every frame, float32 (N, T)."""
        wave = self.wave(value, start, stop)
        wave = wave[: self.hop * (self.tokens(len(wave)) - 1) + self.window]
        if self.normalize_wave:
            mean = wave.mean(dtype=np.float64)
            wave = ((wave - mean) / max(wave.std(dtype=np.float64), SMALLEST_STD)).astype(np.float32)
        return np.lib.stride_tricks.sliding_window_view(wave, self.window)[:: self.hop].copy()

    def encoder(self, width: int) -> "SpeechEncoder":
        """The stem, a linear map, and positions."""
        return SpeechEncoder(self, width)


class SpeechEncoder(Encoder):
    """Windows -> tokens; neighbouring windows overlap, so a hidden one is partly heard in its neighbours."""

    has_penalty = True
    table: Tensor

    def __init__(self, speech: Speech, width: int) -> None:
        super().__init__()
        self.positions, self.gradient_scale = speech.positions, speech.gradient_scale
        self.max_places = speech.max_places
        self.stem = WaveStem(speech.stem, speech.channels, bias=speech.conv_bias, norm=speech.norm)
        self.norm = nn.LayerNorm(speech.channels, eps=EPS)
        self.projection = nn.Linear(speech.channels, width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.convolution = None
        if speech.positions == "convolutional":
            self.convolution = ConvolutionalPositions(width, kernel=speech.kernel, groups=speech.groups)
        elif speech.positions == "sincos":
            self.register_buffer("table", self.place_table(width), persistent=False)

    @property
    def neutral(self) -> float:
        """Silence."""
        return 0.0

    def forward(self, content: Content) -> Tokens:
        """Windows (B, N, T) -> tokens (B, N, D)."""
        x, penalty = self._embedded(content)
        sincos_table = self.positions == "sincos"
        position = embedding(content.place, self.table).to(x.dtype) if sincos_table else torch.zeros_like(x)
        rotary, nowhere = self.positions == "rotary", torch.zeros_like(content.place)
        place = content.place if rotary else nowhere
        return Tokens(x, position, place, content.valid, content.segment, nowhere, content.full, rotary, penalty)

    def _embedded(self, content: Content) -> tuple[Float[Tensor, "B N D"], Float[Tensor, ""]]:
        """Padding becomes zeros; beside it the mean square of the valid frames' features, in float32."""
        values = content.values.to(self.projection.weight.dtype)
        valid = None if content.full else content.valid
        if valid is not None:
            values = torch.where(valid.unsqueeze(2), values, 0.0)  # anything may stand in padding
        features = self.stem(values, valid)
        if self.gradient_scale != 1:
            fixed = features.detach()
            features = fixed + self.gradient_scale * (features - fixed)
        squares = features.float().square().mean(2)
        penalty = squares.mean() if valid is None else (squares * valid).sum() / valid.sum().clamp(min=1)
        x = self.projection(self.norm(features))
        return x if valid is None else torch.where(valid.unsqueeze(2), x, 0.0), penalty

    def settle(self, shown: Shown, size: int) -> Shown:
        """Convolutional positions, of what is shown."""
        return shown if self.convolution is None else self.convolution.settle(shown, size)

    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Another frame of the same row."""
        return gather(self._embedded(content)[0], another(content.valid, choice))

    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Sine-cosine, one row a frame of the longest stretch."""
        return sincos(torch.arange(self.max_places).float(), width)
