"""What every way to read speech shares: one channel of sound at one rate."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from mmpt.data.resampling import resampled_wave
from mmpt.encoders.recording import Recorded, described
from mmpt.errors import DataError
from mmpt.tokens import Content

FULL_SCALE = 32768  # of 16-bit samples


@dataclass(frozen=True)
class Sound(Recorded):
    """One channel of sound; a row has its tokens in the order of time."""

    max_seconds: float = field(default=15.0, kw_only=True)
    kind = "audio"
    what, token, builder = "speech", "token", "speech"
    rates = (1000, 768_000)

    @property
    @abstractmethod
    def numbers(self) -> int:
        """P: of one token's values."""

    def num_tokens(self, start: int, stop: int) -> int:
        """Of the stretch brought to the model's rate."""
        return self.places(stop - start)

    def convert(self, value: Any) -> tuple[np.ndarray, int]:
        """(samples, rate in Hz) -> the same, float32 (T); samples are floats of -1 to 1 or int16, T or T x 1."""
        expected = "expected (array of T samples, rate in Hz), bytes or a path"
        if not (isinstance(value, tuple | list) and len(value) == 2):
            raise DataError(f"{expected}, got {described(value)}")
        samples, rate = value
        numeric = isinstance(samples, np.ndarray) and (samples.dtype.kind == "f" or samples.dtype == np.int16)
        whole = (
            isinstance(rate, int | float | np.integer | np.floating) and not isinstance(rate, bool) and rate % 1 == 0
        )
        if not numeric or not whole:
            raise DataError(f"{expected}, got ({described(samples)}, {rate!r}); samples are float or int16")
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
        if self.rate == self.data_rate:
            return wave
        return resampled_wave(wave, int(self.data_rate), int(self.rate))

    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """One recording a row; values (B, N, P) float32, a place the token's number in its row."""
        return self.in_order(rows, size, (self.numbers,))

    def token_names(self, content: Content, row: int) -> list[str]:
        """When each token begins and ends."""
        places, valid = content.place[row].tolist(), content.valid[row].tolist()
        return [self._name(place * self.step) if real else "" for place, real in zip(places, valid, strict=True)]

    def _name(self, begin: int) -> str:
        return f"{begin / self.rate:.6g}-{(begin + self.shortest) / self.rate:.6g} s"
