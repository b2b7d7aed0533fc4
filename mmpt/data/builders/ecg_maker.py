"""Stretch of a recording -> sample: leads in the data set's order, unit and rate, and sums for the statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mmpt.data.builders.ecg_records import EcgRecord
from mmpt.data.builders.ecg_sources import read_stretch
from mmpt.data.builders.lead_quality import CONDITIONS, examine
from mmpt.data.builders.parallel import Draft
from mmpt.data.builders.texts import LABELS, text_members
from mmpt.data.encode import encode
from mmpt.data.resampling import resampled_leads
from mmpt.data.schema import declare
from mmpt.errors import DataError

ECG = declare("ecg", "ecg.npy")
MICRO = 10**6  # sums are integers of so many parts of a unit, of squares of its square
LARGEST = 1e6  # of a unit: a kilovolt
FINEST = 10_000  # denominator of a ratio of rates: off by less than a sample in a day


@dataclass(frozen=True)
class EcgMaker:
    """Record -> sample, in any process.

    Args:
        leads: columns of the array.
        rate: of the array, in Hz.
        tokenizer_folder: None where there are no reports.
    """

    leads: tuple[str, ...]
    rate: float
    tokenizer_folder: Path | None

    def __call__(self, record: EcgRecord) -> Draft:
        signal, conditions = lead_matrix(read_stretch(record), record, self.leads)
        if "observed" not in conditions:
            told = zip(self.leads, conditions, strict=True)
            why = ", ".join(f"{lead} {condition}" for lead, condition in told if condition != "missing")
            raise DataError(f"no lead is observed ({why})")
        observed = {f"lead {lead}": CONDITIONS.index(own) for lead, own in zip(self.leads, conditions, strict=True)}
        notes = {}
        if lacking := [f"{lead} {own}" for lead, own in zip(self.leads, conditions, strict=True) if own != "observed"]:
            notes["leads"] = f"{record.place}: {', '.join(lacking)}"
        if record.recording.rate != self.rate:
            notes["resampled"] = f"{record.place}: sampled at {record.recording.rate:g} Hz, not {self.rate:g}"
            ratio = Fraction(self.rate / record.recording.rate).limit_denominator(FINEST)
            signal = resampled_leads(signal, *ratio.as_integer_ratio())
            observed["millihertz"] = round(record.recording.rate * 1000)
        signal = signal.astype(np.float32)
        members, tokens = text_members(record.report, self.tokenizer_folder)
        members |= {"ecg": encode(ECG, signal), "labels": encode(LABELS, record.labels)}
        return Draft(members, record.group, lead_sums(signal) | tokens, observed, notes)


def lead_matrix(
    samples: Float[np.ndarray, "T W"], record: EcgRecord, leads: Sequence[str]
) -> tuple[Float[np.ndarray, "T C"], list[str]]:
    """A column a lead, in the data set's unit and NaN where it was not observed, and the condition of each."""
    own = record.recording
    signal, conditions = np.full((len(samples), len(leads)), np.nan), []
    for column, lead in enumerate(leads):
        if lead not in own.columns:
            conditions.append("missing")
            continue
        number, scale = own.columns[lead]
        values, condition = examine(samples[:, number] * scale, own.rate)
        if condition == "observed":
            if (largest := np.abs(values).max()) > LARGEST:
                raise DataError(f"lead {lead} reaches {largest:.3g}, the limit is {LARGEST:.0e}; is its unit right?")
            signal[:, column] = values
        conditions.append(condition)
    return signal, conditions


def lead_sums(signal: Float[np.ndarray, "T C"]) -> dict[str, list[int]]:
    """Integers, so that mean and deviation do not depend on the order of adding."""
    observed = np.isfinite(signal).all(axis=0)
    values = np.where(observed, signal, 0).astype(np.float64)
    return {
        "count": np.where(observed, len(signal), 0).tolist(),
        "sum": [round(total * MICRO) for total in values.sum(axis=0).tolist()],
        "square": [round(total * MICRO**2) for total in (values**2).sum(axis=0).tolist()],
    }
