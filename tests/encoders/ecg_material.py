"""Tiny ECG modalities and recordings with all that makes them hard: short ones, and leads that were not measured."""

from pathlib import Path

import numpy as np

from mmpt.encoders import Facts, Modality
from mmpt.encoders.ecg import Ecg
from mmpt.encoders.ecg_stem import EcgStem

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
RATE = 500
WHOLE = 1030  # samples: 16 strips of 64, or 64 of 16, and a rest


def ecg_facts(folder: Path, leads: tuple[str, ...] = LEADS) -> Facts:
    mean, std = np.linspace(-0.2, 0.3, len(leads)).tolist(), np.linspace(0.2, 0.8, len(leads)).tolist()
    values = {"leads": list(leads), "sample_rate": RATE, "unit": "mV"}
    return Facts(folder, values, {"mean": mean, "std": std})


def ecg_modalities(folder: Path) -> dict[str, Modality]:
    """Up to 17 strips of each of 12 leads, and up to 68 tokens of all leads."""
    facts = ecg_facts(folder)
    stem = EcgStem(facts, max_seconds=2.2, channels=16, kernel=8, groups=4)
    return {"ecg": Ecg(facts, max_seconds=2.2, patch=64), "ecg_stem": stem}


def recording(number: int, length: int = WHOLE, missing: tuple[str, ...] = ()) -> np.ndarray:
    """Beats of a rate and with a shape of its own, in mV; float32 (T, C)."""
    random = np.random.default_rng(number)
    time = np.arange(length)[:, None] / RATE
    heights = random.normal(0.5, 1.0, len(LEADS))
    beats = np.exp(-(((time * random.uniform(1, 2)) % 1 - 0.5) ** 2) / 0.002) * heights
    signal = (beats + random.normal(0, 0.05, (length, len(LEADS)))).astype(np.float32)
    signal[:, [LEADS.index(lead) for lead in missing]] = np.nan
    return signal


def ecg_values() -> list[np.ndarray]:
    """Four that differ in length and leads, then eight of one length that lack nothing."""
    return [
        recording(0),
        recording(1, 610, ("II", "V3")),
        recording(2, WHOLE, ("aVR",)),
        recording(3, 330, tuple(lead for lead in LEADS if lead != "V1")),
        *(recording(number) for number in range(4, 12)),
    ]
