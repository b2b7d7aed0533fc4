"""What every way to read an ECG shares: leads by name, z-score, and cutting into whole strips."""

import difflib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mmpt.data.resampling import resampled_leads
from mmpt.encoders.recording import SMALLEST_STD, Recorded, described
from mmpt.errors import ConfigError, DataError


@dataclass(frozen=True)
class Strips(Recorded):
    """A recording of named leads, T x C; a lead that was not measured is NaN.

    Samples behind the last whole strip are left out, of the z-score too.

    Args:
        normalize: z-score of every lead by the training split's `statistics`, or by the `strip` of the recording that
            is read (C-MELT, Pham et al. 2024).
    """

    normalize: Literal["statistics", "strip"] = field(default="statistics", kw_only=True)
    kind = "array"
    what, token, builder = "an ECG", "strip", "ecg"
    needed = ("leads", "sample_rate")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize == "statistics":
            self._check_statistics()

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
    def shortest(self) -> int:
        """A strip."""
        return self.stride

    @property
    def step(self) -> int:
        """A strip."""
        return self.stride

    @property
    def leads(self) -> tuple[str, ...]:
        """Names of the C columns."""
        return tuple(self.facts.values["leads"])

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
        kinds = {name: described(lead) for name, lead in value.items()}
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
                f"got {described(value)}"
            )
        return value.astype(np.float32, copy=False)

    def signal(self, value: Any, start: int, stop: int) -> Float[np.ndarray, "T C"]:
        """Whole strips of a stretch at the model's rate, z-scored; a lead with any sample missing is NaN throughout."""
        piece = self._checked(value)[start:stop]
        covered = self.places(len(piece)) * self.stride
        if not covered:
            raise DataError(f"{len(piece)} samples at {self.data_rate:g} Hz are less than a strip of {self.stride}")
        if self.rate != self.data_rate:
            piece = resampled_leads(piece, *self.ratio)
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
