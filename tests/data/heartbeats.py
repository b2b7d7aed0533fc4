"""Small recordings as real files of every format that `mmpt build ecg` reads."""

import csv
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.data.builders.records import edf_library
from mmpt.data.builders.wfdb_records import wfdb_library
from mmpt.data.manifest import Manifest
from tests.data.material import members


def heartbeats(number: int, length: int = 400, width: int = 2) -> np.ndarray:
    """Millivolts T x C: a sharp peak every 100 samples over a slow wave, the same for the same number."""
    generator = np.random.default_rng(number)
    time = np.arange(length)[:, None]
    peak = np.exp(-(((time % 100) - 30 - np.arange(width)) ** 2) / 8)
    return peak + 0.1 * np.sin(time / (20 + number)) + 0.01 * generator.standard_normal((length, width))


def write_wfdb(folder: Path, name: str, signal: np.ndarray, leads: list[str], **settings: Any) -> np.ndarray:
    """A record as wfdb writes it; gives back its physical values as wfdb reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    width = len(leads)
    own: dict[str, Any] = {"fs": 100, "units": ["mV"] * width, "fmt": ["16"] * width} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pandas says to wfdb
        wfdb = wfdb_library()
        wfdb.wrsamp(name, sig_name=leads, p_signal=signal, write_dir=str(folder), **own)
        return wfdb.rdrecord(str(folder / name)).p_signal


def write_edf(path: Path, signal: np.ndarray, leads: list[str], unit: str, rate: float = 100) -> None:
    edfio = edf_library()
    path.parent.mkdir(parents=True, exist_ok=True)
    signals = [
        edfio.EdfSignal(column, rate, label=lead, physical_dimension=unit)
        for column, lead in zip(signal.T, leads, strict=True)
    ]
    edfio.Edf(signals, data_record_duration=1).write(path)


def write_csv(path: Path, signal: np.ndarray, leads: list[str]) -> None:
    """Not-a-number is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(leads)
        writer.writerows([["" if np.isnan(value) else repr(float(value)) for value in row] for row in signal])


def write_records(folder: Path, count: int, leads: tuple[str, ...] = ("I", "II")) -> Path:
    for number in range(count):
        write_wfdb(folder, f"r{number:03d}", heartbeats(number, width=len(leads)), list(leads))
    return folder


def signals(manifest: Manifest) -> list[np.ndarray]:
    """Every array as it lies in the tars, in the order of the keys."""
    found = members(manifest.folder)
    return [np.load(io.BytesIO(found[name])) for name in sorted(found) if name.endswith(".ecg.npy")]


def reasons(manifest: Manifest) -> dict[str, str]:
    """File name (or table and line) -> why it was left out."""
    return {Path(entry["input"]).name: entry["reason"] for entry in manifest.rejected}
