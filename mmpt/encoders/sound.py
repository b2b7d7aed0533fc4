"""What every way to read speech shares: one channel, the sampling rate, and cutting into stretches."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from mmpt.encoders import Facts, Modality
from mmpt.errors import ConfigError, DataError
from mmpt.tokens import Content

SMALLEST_STD = 1e-6  # digital silence stays finite
FULL_SCALE = 32768  # of 16-bit samples
HZ = (1000, 768_000)


@dataclass(frozen=True)
class Sound(Modality):
    """One channel of sound in stretches of `max_seconds`; starts and stops count samples of the data's rate.

    Args:
        sample_rate: that the model reads, in Hz; None: the data's.
        resample: bring sound of another rate to `sample_rate` instead of refusing it.
        max_seconds: longest stretch in a row; longer recordings are cut into several.
    """

    facts: Facts
    sample_rate: int | None = field(default=None, kw_only=True)
    resample: bool = field(default=False, kw_only=True)
    max_seconds: float = field(default=15.0, kw_only=True)
    kind = "audio"

    def __post_init__(self) -> None:
        if not self.facts.values.get("sample_rate"):
            raise ConfigError(
                "type: speech needs a field whose facts have sample_rate; this one has "
                f"{', '.join(self.facts.values) or 'none'}, so it was not built by 'mmpt build speech'; build it"
            )
        if not HZ[0] <= self.rate <= HZ[1]:
            raise ConfigError(f"sample_rate: expected {HZ[0]} to {HZ[1]} Hz, got {self.rate}")
        if self.rate != self.data_rate and not self.resample:
            raise ConfigError(
                f"sample_rate: the data have {self.data_rate} Hz, and {self.rate} Hz were asked for; "
                "set resample: true, or leave sample_rate out"
            )
        if self.max_tokens < 1:
            raise ConfigError(
                f"max_seconds: {self.max_seconds} s at {self.rate} Hz are less than a token of {self.shortest} samples"
            )

    @property
    @abstractmethod
    def shortest(self) -> int:
        """Samples that the first token takes, at the model's rate."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Samples from one token to the next, at the model's rate."""

    @property
    @abstractmethod
    def numbers(self) -> int:
        """P: of one token's values."""

    @property
    def data_rate(self) -> int:
        """Of the recordings, in Hz."""
        return int(self.facts.values["sample_rate"])

    @property
    def rate(self) -> int:
        """Of what the model reads, in Hz."""
        return self.sample_rate or self.data_rate

    @property
    def limit(self) -> int:
        """Samples of the longest stretch, at the data's rate."""
        return round(self.max_seconds * self.data_rate)

    @property
    def max_tokens(self) -> int:
        """Of the longest stretch."""
        return self.num_tokens(0, self.limit)

    def tokens(self, samples: int) -> int:
        """Whole tokens of so many samples at the model's rate."""
        return max(0, (samples - self.shortest) // self.step + 1)

    def num_tokens(self, start: int, stop: int) -> int:
        """Of the stretch brought to the model's rate."""
        common = gcd(self.rate, self.data_rate)
        return self.tokens(-(-(stop - start) * (self.rate // common) // (self.data_rate // common)))

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """Stretches of `max_seconds`; what is too short for a token at the end is left out."""
        cuts = [(start, min(start + self.limit, length)) for start in range(0, length, self.limit)]
        return [(start, stop) for start, stop in cuts if self.num_tokens(start, stop)]

    def convert(self, value: Any) -> tuple[np.ndarray, int]:
        """(samples, rate in Hz) -> the same, float32 (T); samples are floats of -1 to 1 or int16, T or T x 1."""
        expected = "expected (array of T samples, rate in Hz), bytes or a path"
        if not (isinstance(value, tuple | list) and len(value) == 2):
            raise DataError(f"{expected}, got {_described(value)}")
        samples, rate = value
        numeric = isinstance(samples, np.ndarray) and (samples.dtype.kind == "f" or samples.dtype == np.int16)
        whole = (
            isinstance(rate, int | float | np.integer | np.floating) and not isinstance(rate, bool) and rate % 1 == 0
        )
        if not numeric or not whole:
            raise DataError(f"{expected}, got ({_described(samples)}, {rate!r}); samples are float or int16")
        scale = FULL_SCALE if samples.dtype == np.int16 else 1
        wave = (samples / np.float32(scale)).astype(np.float32)
        return self._mono(wave), self._checked_rate(int(rate))

    def _mono(self, samples: np.ndarray) -> Float[np.ndarray, " T"]:
        if samples.ndim == 2 and samples.shape[1] == 1:
            return samples[:, 0]
        if samples.ndim != 1:
            channels = f"{samples.shape[1]} channels" if samples.ndim == 2 else f"{samples.ndim} axes"
            raise DataError(f"{channels}, expected mono; build with 'mmpt build speech', or mix them to one")
        return samples

    def _checked_rate(self, rate: int) -> int:
        if rate != self.data_rate:
            raise DataError(
                f"sampled at {rate} Hz, expected {self.data_rate} Hz as the data set's facts say; resample it"
            )
        return rate

    def wave(self, value: tuple[np.ndarray, int], start: int, stop: int) -> Float[np.ndarray, " T"]:
        """A stretch of one recording at the model's rate; raises DataError for what can't be speech."""
        samples, rate = value
        self._checked_rate(rate)
        wave = self._mono(samples)[start:stop]
        if not len(wave):
            raise DataError(f"zero length: no sample between {start} and {stop} of {len(samples)}")
        if not np.isfinite(wave).all():
            bad = int((~np.isfinite(wave)).sum())
            raise DataError(f"{bad} of {len(wave)} samples are not finite (NaN or infinite)")
        if not self.num_tokens(0, len(wave)):
            raise DataError(
                f"{len(wave)} samples at {rate} Hz, expected at least {self.shortest} at {self.rate} Hz, one token's"
            )
        return wave if self.rate == self.data_rate else _resampled(wave, self.data_rate, self.rate)

    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """One recording a row; values (B, N, P) float32, a place the token's number in its row."""
        recordings = [_only(row) for row in rows]
        shape = len(rows), size or max([len(tokens) for tokens in recordings if tokens is not None], default=1)
        values, valid = np.zeros((*shape, self.numbers), np.float32), np.zeros(shape, dtype=bool)
        for row, tokens in enumerate(recordings):
            if tokens is not None:
                values[row, : len(tokens)], valid[row, : len(tokens)] = tokens, True
        place = np.where(valid, np.arange(shape[1]), 0)
        arrays = (values, valid, valid.copy(), np.zeros_like(place), place)
        full = bool(valid.all())
        tensors = (torch.from_numpy(array) for array in arrays)
        return Content(*tensors, full=full, observed_count=shape[1] if full else None)

    def token_names(self, content: Content, row: int) -> list[str]:
        """When each token begins and ends."""
        places, valid = content.place[row].tolist(), content.valid[row].tolist()
        return [self._name(place * self.step) if real else "" for place, real in zip(places, valid, strict=True)]

    def _name(self, begin: int) -> str:
        return f"{begin / self.rate:.6g}-{(begin + self.shortest) / self.rate:.6g} s"


def _resampled(wave: Float[np.ndarray, " T"], rate: int, wanted: int) -> Float[np.ndarray, " R"]:
    """Windowed-sinc interpolation."""
    from torchaudio.functional import resample  # slow to import: only where rates differ

    return resample(torch.from_numpy(np.ascontiguousarray(wave)), rate, wanted).numpy()


def _described(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    return f"{value.dtype} of {' x '.join(map(str, value.shape)) or 'no axis'}"


def _only(row: Sequence[np.ndarray]) -> np.ndarray | None:
    """The one recording of a row, or none."""
    if len(row) > 1:
        raise ConfigError(f"layout: speech has a row of its own, got {len(row)} in one; use samples or budget")
    return row[0] if row else None
