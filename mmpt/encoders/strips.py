"""What every way to read an ECG shares: leads by name, sampling rate, z-score, and cutting into whole strips."""

import difflib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmpt.encoders import Facts, Modality
from mmpt.errors import ConfigError, DataError

SMALLEST_STD = 1e-6  # a lead that never varies stays finite


@dataclass(frozen=True)
class Strips(Modality):
    """A recording of named leads, T x C, in stretches of `max_seconds`; a lead that was not measured is NaN.

    Samples behind the last whole strip are left out, of the z-score too.

    Args:
        max_seconds: longest stretch in a row; longer recordings are cut into several.
        normalize: z-score of every lead by the training split's `statistics`, or by the `strip` of the recording that
            is read (C-MELT, Pham et al. 2024).
        sample_rate: that the model reads, in Hz; None: the data's.
        resample: bring recordings of another rate to `sample_rate` instead of refusing them.
    """

    facts: Facts
    max_seconds: float = field(default=10.0, kw_only=True)
    normalize: Literal["statistics", "strip"] = field(default="statistics", kw_only=True)
    sample_rate: int | None = field(default=None, kw_only=True)
    resample: bool = field(default=False, kw_only=True)
    kind = "array"

    def __post_init__(self) -> None:
        for name in ("leads", "sample_rate"):
            if not self.facts.values.get(name):
                raise ConfigError(
                    f"type: an ECG needs a field whose facts have {name}; this one has "
                    f"{', '.join(self.facts.values) or 'none'}, so it was not built by 'mmpt build ecg'; build it"
                )
        if self.rate != self.data_rate and not self.resample:
            raise ConfigError(
                f"sample_rate: the data have {self.data_rate:g} Hz, and {self.rate:g} Hz were asked for; "
                "set resample: true"
            )
        if self.normalize == "statistics":
            self._check_statistics()
        if self.max_strips < 1:
            raise ConfigError(
                f"max_seconds: {self.max_seconds} s at {self.rate:g} Hz are less than a strip of {self.stride} samples"
            )

    def _check_statistics(self) -> None:
        for name in ("mean", "std"):
            numbers = self.facts.statistics.get(name)
            if numbers is None or len(numbers) != len(self.leads):
                raise ConfigError(
                    f"normalize: statistics needs '{name}' of each of the {len(self.leads)} leads in the data set's "
                    f"statistics, got {numbers}; build it with 'mmpt build ecg', or use normalize: strip"
                )

    @property
    @abstractmethod
    def stride(self) -> int:
        """Samples of a strip, at the model's rate."""

    @property
    def leads(self) -> tuple[str, ...]:
        """Names of the C columns."""
        return tuple(self.facts.values["leads"])

    @property
    def data_rate(self) -> float:
        """Of the recordings, in Hz."""
        return float(self.facts.values["sample_rate"])

    @property
    def rate(self) -> float:
        """Of what the model reads, in Hz."""
        return float(self.sample_rate or self.data_rate)

    @property
    def limit(self) -> int:
        """Samples of the longest stretch, at the data's rate."""
        return round(self.max_seconds * self.data_rate)

    @property
    def max_strips(self) -> int:
        """Of the longest stretch: places that time has in a row."""
        return self.strips(self.limit)

    def strips(self, length: int) -> int:
        """Whole strips in so many samples at the data's rate."""
        up, down = self._ratio
        return -(-length * up // down) // self.stride

    @property
    def _ratio(self) -> tuple[int, int]:
        return (Fraction(self.rate) / Fraction(self.data_rate)).as_integer_ratio()

    def convert(self, value: Any) -> np.ndarray:
        """An array T x C in the order of the leads, (T) where there is one lead, or a dict of (T) by lead -> T x C."""
        if isinstance(value, Mapping):
            return self._from_leads(value)
        if isinstance(value, np.ndarray) and value.ndim == 1 and len(self.leads) == 1:
            value = value[:, None]
        return self._checked(value)

    def _from_leads(self, value: Mapping[str, Any]) -> np.ndarray:
        """Columns in the order of the leads; those that the dict lacks are not observed."""
        names = {lead.lower(): lead for lead in self.leads}
        for name in value:
            if name not in self.leads:
                near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.0)[0]
                raise DataError(
                    f"no lead '{name}'; the leads are {', '.join(self.leads)}, and the nearest is '{names[near]}'"
                )
        kinds = {name: _described(lead) for name, lead in value.items()}
        wrong = [f"'{name}': {kinds[name]}" for name, lead in value.items() if not _numeric(lead) or lead.ndim != 1]
        if wrong or len({len(lead) for lead in value.values()}) != 1:
            came = ", ".join(wrong) or ", ".join(f"'{name}': {kind}" for name, kind in kinds.items()) or "no lead"
            raise DataError(f"expected an array (T) for each lead, all of one length, got {came}")
        longest = len(next(iter(value.values())))
        columns = [value.get(lead, np.full(longest, np.nan)) for lead in self.leads]
        return np.stack(columns, axis=1).astype(np.float32)

    def _checked(self, value: Any) -> np.ndarray:
        if not _numeric(value) or value.ndim != 2 or value.shape[1] != len(self.leads):
            raise DataError(
                f"expected an array of T x {len(self.leads)} ({', '.join(self.leads)}) or a dict of (T) by lead, "
                f"got {_described(value)}"
            )
        return value.astype(np.float32, copy=False)

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """Stretches of `max_seconds`; what is shorter than a strip at the end is left out."""
        cuts = [(start, min(start + self.limit, length)) for start in range(0, length, self.limit)]
        return [(start, stop) for start, stop in cuts if self.strips(stop - start)]

    def signal(self, value: Any, start: int, stop: int) -> Float[np.ndarray, "T C"]:
        """Whole strips of a stretch at the model's rate, z-scored; a lead with any sample missing is NaN throughout."""
        piece = self._checked(value)[start:stop]
        covered = self.strips(len(piece)) * self.stride
        if not covered:
            raise DataError(f"{len(piece)} samples at {self.data_rate:g} Hz are less than a strip of {self.stride}")
        if self.rate != self.data_rate:
            piece = _resampled(piece, *self._ratio)
        piece = piece[:covered]
        observed = np.isfinite(piece).all(axis=0)
        if not observed.any():
            raise DataError(f"no lead is observed: each of {', '.join(self.leads)} has samples that are not numbers")
        return self._standardised(np.where(observed, piece, np.float32(np.nan)))

    def _standardised(self, piece: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "T C"]:
        if self.normalize == "strip":
            mean, std = piece.mean(axis=0), piece.std(axis=0, ddof=1)
        else:
            mean, std = (np.asarray(self.facts.statistics[name], dtype=np.float32) for name in ("mean", "std"))
        return (piece - mean) / np.maximum(std, np.float32(SMALLEST_STD))

    def stretch_name(self, strip: int) -> str:
        """When a strip begins and ends."""
        digits = 2 if self.stride * 100 % self.rate == 0 else 3
        begin, end = (number * self.stride / self.rate for number in (strip, strip + 1))
        return f"{begin:.{digits}f}-{end:.{digits}f} s"


def _numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf"


def _described(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    return f"{value.dtype} of {' x '.join(map(str, value.shape)) or 'no axis'}"


def _resampled(piece: Float[np.ndarray, "T C"], up: int, down: int) -> Float[np.ndarray, "R C"]:
    from scipy.signal import resample_poly  # slow to import: only where rates differ

    whole = np.isfinite(piece).all(axis=0)
    return resample_poly(np.where(whole, piece, np.float32(np.nan)), up, down, axis=0, padtype="line")


def only(row: Sequence[np.ndarray]) -> np.ndarray | None:
    """The one recording of a row, or none."""
    if len(row) > 1:
        raise ConfigError(f"layout: an ECG has a row of its own, got {len(row)} in one; use samples or budget")
    return row[0] if row else None


def another(valid: Bool[Tensor, "B N"], choice: Float[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """For every place some valid token of its row, picked by numbers in (0, 1)."""
    ordered = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    return ordered.gather(1, (choice * valid.sum(1, keepdim=True)).long())
