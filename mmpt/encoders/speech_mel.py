"""Speech as patches of its log-mel spectrogram (AST, Gong et al. 2021; SSAST, Gong et al. 2022)."""

import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmpt.encoders import Encoder
from mmpt.encoders.sound import Sound
from mmpt.errors import ConfigError
from mmpt.tokens import Content, Shown, Tokens, another, gather
from mmpt.trunk.positions import sincos

SHORTEST_HOP = 0.001  # seconds: a sample at the lowest rate
SMALLEST_DEVIATION = 1e-3  # nats: what varies less says nothing, and rounding must not be blown up
FLOOR = 1e-6  # of the power: digital silence stays finite


class MelTables(NamedTuple):
    """What a log-mel spectrum is computed with: Hann's window and the filters of the bands."""

    hann: Float[Tensor, " T"]
    filters: Float[Tensor, "F P"]


@lru_cache(maxsize=8)
def mel_tables(rate: int, window: int, mels: int) -> MelTables:
    """Triangular filters from 0 Hz to half the rate, on the HTK scale; raises ConfigError where one catches no bin."""
    from torchaudio.functional import melscale_fbanks  # slow to import

    bins = fft_size(window) // 2 + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty filters, which are refused below
        filters = melscale_fbanks(bins, 0.0, rate / 2, mels, rate)
    if (filters.amax(0) == 0).any():
        raise ConfigError(
            f"mels: {mels} bands are too narrow for the {bins} frequencies of a window at {rate} Hz; use fewer"
        )
    return MelTables(torch.hann_window(window), filters)


def log_mel(windows: Float[Tensor, "*rows T"], tables: MelTables) -> Float[Tensor, "*rows P"]:
    """Log of the power in every mel band, of Hann windows zero-padded to a power of two."""
    spectra = torch.view_as_real(torch.fft.rfft(windows * tables.hann, fft_size(windows.shape[-1])))
    with torch.autocast(windows.device.type, enabled=False):  # half precision would be heard in quiet bands
        return (spectra.square().sum(-1) @ tables.filters).add_(FLOOR).log_()


def fft_size(window: int) -> int:
    """Samples of a padded window."""
    return 1 << (window - 1).bit_length()


@dataclass(frozen=True)
class SpeechMel(Sound):
    """Stretches of `kernel` spectra of `mels` bands; spectra behind the last whole patch are left out.

    Args:
        mels: bands.
        window_seconds: of one spectrum. hop_seconds: from one to the next.
        kernel: spectra of a patch. stride: spectra from one patch to the next.
        normalize: take every band's mean over the utterance away, which removes the channel, and divide by the
            deviation of all that is left; or nothing.
        positions: a fixed sine-cosine table, or rotary attention.
    """

    mels: int = field(default=40, kw_only=True)
    window_seconds: float = field(default=0.025, kw_only=True)
    hop_seconds: float = field(default=0.01, kw_only=True)
    kernel: int = field(default=4, kw_only=True)
    stride: int = field(default=4, kw_only=True)
    normalize: Literal["utterance", "none"] = field(default="utterance", kw_only=True)
    positions: Literal["sincos", "rotary"] = field(default="sincos", kw_only=True)

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.kernel:
            raise ConfigError(f"stride: expected 1 <= stride <= kernel, got stride {self.stride}, kernel {self.kernel}")
        if not SHORTEST_HOP <= self.hop_seconds <= self.window_seconds / 2:
            raise ConfigError(
                f"hop_seconds: expected {SHORTEST_HOP} to half of window_seconds, "
                f"got {self.hop_seconds} and {self.window_seconds}"
            )
        if self.mels < 1:
            raise ConfigError(f"mels: expected at least 1, got {self.mels}")
        super().__post_init__()
        _ = self.tables  # too many bands are told of when the recipe is read

    @property
    def window(self) -> int:
        """Samples of one spectrum."""
        return round(self.window_seconds * self.rate)

    @property
    def hop(self) -> int:
        """Samples from one spectrum to the next."""
        return round(self.hop_seconds * self.rate)

    @property
    def shortest(self) -> int:
        """What the spectra of one patch take."""
        return (self.kernel - 1) * self.hop + self.window

    @property
    def step(self) -> int:
        """What the spectra of a stride take."""
        return self.stride * self.hop

    @property
    def numbers(self) -> int:
        """By spectrum and band."""
        return self.kernel * self.mels

    @property
    def tables(self) -> MelTables:
        """Of its spectra, made once a process."""
        return mel_tables(int(self.rate), self.window, self.mels)

    def read(self, value: tuple[np.ndarray, int], start: int, stop: int, draw: int | None) -> np.ndarray:
        """Patches, float32 (N, P)."""
        wave = self.wave(value, start, stop)
        count = self.tokens(len(wave))
        spectra = self.kernel + (count - 1) * self.stride
        windows = torch.from_numpy(np.ascontiguousarray(wave, np.float32)).unfold(0, self.window, self.hop)[:spectra]
        mel = log_mel(windows, self.tables)
        if self.normalize == "utterance":
            mel = mel - mel.mean(0)
            mel = mel / mel.std(correction=0).clamp(min=SMALLEST_DEVIATION)
        patches = mel.unfold(0, self.kernel, self.stride).transpose(1, 2)  # N kernel mels
        return patches.reshape(count, self.numbers).numpy()

    def encoder(self, width: int) -> "SpeechMelEncoder":
        """A linear map of patches, and positions."""
        return SpeechMelEncoder(self, width)


class SpeechMelEncoder(Encoder):
    """Patches -> tokens, each from its own numbers alone."""

    tokenwise = True
    table: Tensor

    def __init__(self, speech: SpeechMel, width: int) -> None:
        super().__init__()
        self.rotary, self.max_places = speech.positions == "rotary", speech.max_places
        self.projection = nn.Linear(speech.numbers, width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        if not self.rotary:
            self.register_buffer("table", self.place_table(width), persistent=False)

    @property
    def neutral(self) -> float:
        """The mean spectrum, where patches are normalised."""
        return 0.0

    def forward(self, content: Content) -> Tokens:
        """Patches (B, N, P) -> tokens (B, N, D)."""
        x = self._embedded(content.values, None if content.full else content.valid)
        position = torch.zeros_like(x) if self.rotary else embedding(content.place, self.table).to(x.dtype)
        nowhere = torch.zeros_like(content.place)
        place = content.place if self.rotary else nowhere
        return Tokens(x, position, place, content.valid, content.segment, nowhere, content.full, self.rotary)

    def _embedded(self, values: Float[Tensor, "B N P"], valid: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        if valid is not None:
            values = torch.where(valid.unsqueeze(2), values, 0.0)  # anything may stand in padding
        return self.projection(values.to(self.projection.weight.dtype))

    def settle(self, shown: Shown, size: int) -> Shown:
        """Nothing to add."""
        return shown

    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Another patch of the same row."""
        index = another(content.valid, choice)
        return self._embedded(gather(content.values, index), content.valid.gather(1, index))

    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Sine-cosine, one row a patch of the longest stretch."""
        return sincos(torch.arange(self.max_places).float(), width)
