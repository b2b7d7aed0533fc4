"""What recordings share, speech or ECG: the sampling rate, cutting into stretches, and a row for each."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int, Shaped

from mmpt.encoders import Facts, Modality
from mmpt.errors import ConfigError
from mmpt.tokens import Content

SMALLEST_STD = 1e-6  # what never varies stays finite


@dataclass(frozen=True)
class Recorded(Modality):
    """Samples at one rate in stretches of `max_seconds`; starts and stops count samples of the data's rate.

    Args:
        max_seconds: longest stretch in a row; longer recordings are cut into several.
        sample_rate: that the model reads, in Hz; None: the data's.
        resample: bring recordings of another rate to `sample_rate` instead of refusing them.
    """

    facts: Facts
    max_seconds: float = field(default=10.0, kw_only=True)
    sample_rate: int | None = field(default=None, kw_only=True)
    resample: bool = field(default=False, kw_only=True)
    what: ClassVar[str]  # such a recording, for people
    token: ClassVar[str]  # a token of it
    builder: ClassVar[str]  # `mmpt build ...`
    needed: ClassVar[tuple[str, ...]] = ("sample_rate",)  # facts
    rates: ClassVar[tuple[float, float]] = (0.0, math.inf)  # in Hz

    def __post_init__(self) -> None:
        for name in self.needed:
            if not self.facts.values.get(name):
                raise ConfigError(
                    f"type: {self.what} needs a field whose facts have {name}; this one has "
                    f"{', '.join(self.facts.values) or 'none'}, so it was not built by 'mmpt build {self.builder}'; "
                    "build it"
                )
        if not self.rates[0] <= self.rate <= self.rates[1]:
            raise ConfigError(f"sample_rate: expected {self.rates[0]} to {self.rates[1]} Hz, got {self.rate:g}")
        if self.rate != self.data_rate and not self.resample:
            raise ConfigError(
                f"sample_rate: the data have {self.data_rate:g} Hz, and {self.rate:g} Hz were asked for; "
                "set resample: true, or leave sample_rate out"
            )
        if self.max_places < 1:
            raise ConfigError(
                f"max_seconds: {self.max_seconds} s at {self.rate:g} Hz are less than a {self.token} of "
                f"{self.shortest} samples"
            )

    @property
    @abstractmethod
    def shortest(self) -> int:
        """Samples that one token takes, at the model's rate."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Samples from one token to the next, at the model's rate."""

    @property
    def data_rate(self) -> int | float:
        """Of the recordings, in Hz."""
        return self.facts.values["sample_rate"]

    @property
    def rate(self) -> int | float:
        """Of what the model reads, in Hz."""
        return self.sample_rate or self.data_rate

    @property
    def ratio(self) -> tuple[int, int]:
        """Samples of the model's rate for so many of the data's, in lowest terms."""
        return (Fraction(self.rate) / Fraction(self.data_rate)).as_integer_ratio()

    @property
    def limit(self) -> int:
        """Samples of the longest stretch, at the data's rate."""
        return round(self.max_seconds * self.data_rate)

    @property
    def max_places(self) -> int:
        """Places that time has in a row: those of the longest stretch."""
        return self.places(self.limit)

    def places(self, length: int) -> int:
        """Whole tokens one after the other in so many samples at the data's rate."""
        up, down = self.ratio
        return self.tokens(-(-length * up // down))

    def tokens(self, samples: int) -> int:
        """The same of samples at the model's rate."""
        return max(0, (samples - self.shortest) // self.step + 1)

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """Stretches of `max_seconds`; what is too short for a token at the end is left out."""
        cuts = [(start, min(start + self.limit, length)) for start in range(0, length, self.limit)]
        return [(start, stop) for start, stop in cuts if self.places(stop - start)]

    def only(self, row: Sequence[np.ndarray]) -> np.ndarray | None:
        """The one recording of a row, or none."""
        if len(row) > 1:
            raise ConfigError(f"layout: {self.what} has a row of its own, got {len(row)} in one; use samples or budget")
        return row[0] if row else None

    def in_order(self, rows: Sequence[Sequence[np.ndarray]], size: int | None, shape: tuple[int, ...]) -> Content:
        """A block of one recording a row, whose tokens follow one another in time; each has values of this shape."""
        recordings = [self.only(row) for row in rows]
        empty = np.zeros((0, *shape), np.float32)
        tokens = [empty if recording is None else recording for recording in recordings]
        return padded(tokens, [np.arange(len(own)) for own in tokens], size)


def padded(
    tokens: Sequence[Shaped[np.ndarray, "_ ..."]], places: Sequence[Int[np.ndarray, " _"]], size: int | None
) -> Content:
    """Rows of tokens and their places -> one block (B, N, ...) float32; padding is zeros at place 0."""
    shape = len(tokens), size or max([1, *map(len, tokens)])
    values, valid = np.zeros((*shape, *tokens[0].shape[1:]), np.float32), np.zeros(shape, dtype=bool)
    place = np.zeros(shape, np.int64)
    for row, (own, where) in enumerate(zip(tokens, places, strict=True)):
        here = slice(len(own))
        values[row, here], place[row, here], valid[row, here] = own, where, True
    arrays = (values, valid, valid.copy(), np.zeros_like(place), place)
    full = bool(valid.all())
    tensors = (torch.from_numpy(array) for array in arrays)
    return Content(*tensors, full=full, observed_count=shape[1] if full else None)


def described(value: Any) -> str:
    """Kind and shape of what was given, for people."""
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    return f"{value.dtype} of {' x '.join(map(str, value.shape)) or 'no axis'}"
