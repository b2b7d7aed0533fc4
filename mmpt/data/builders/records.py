"""Files of biosignals -> header and samples: WFDB, EDF, NumPy arrays and CSV."""

import csv
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow.csv as pc
from jaxtyping import Float

from mmpt.data.builders.header import Header
from mmpt.data.builders.wfdb_records import wfdb_header, wfdb_length, wfdb_library, wfdb_samples
from mmpt.errors import DataError

ARRAYS = (".npy", ".npz")
# what the libraries raise on damaged files, found by fuzzing; there is no common base but Exception
READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    Warning,
)


class Format(NamedTuple):
    """How files of one ending are read; `width` is the number of leads that an array without names has."""

    header: Callable[[Path, int], Header]
    samples: Callable[[Path, int, int, int], np.ndarray]  # path, width, start, stop


def read_header(path: Path, width: int) -> Header:
    """The header of a file; raises DataError for one that can't be read."""
    with readable("its header can't be read"):
        return FORMATS[path.suffix.lower()].header(path, width)


def read_samples(path: Path, width: int, start: int, stop: int) -> Float[np.ndarray, "T C"]:
    """The samples from `start` to `stop` of all columns, in the file's unit; raises DataError if they aren't there."""
    with readable("its samples can't be read, is a file cut short or damaged?"):
        samples = np.asarray(FORMATS[path.suffix.lower()].samples(path, width, start, stop), dtype=np.float64)
    if len(samples) != stop - start:
        raise DataError(f"it has {start + len(samples)} samples, where the header promises {stop} or more")
    return samples


def check_libraries(names: Iterable[str]) -> None:
    """Raises DataError where files are of a format whose library is not installed."""
    endings = {Path(name).suffix.lower() for name in names}
    for ending, library in ((".hea", wfdb_library), (".edf", edf_library)):
        if ending in endings:
            library()


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Whatever a library raises or warns of becomes a DataError, but for warnings meant for its authors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        try:
            yield
        except DataError:
            raise
        except READ_ERRORS as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{what} ({reason})") from error


def edf_library() -> ModuleType:
    """The edfio package; raises DataError if it is not installed."""
    try:
        import edfio
    except ImportError as error:
        raise DataError("EDF files are read by the package edfio; install it: pip install 'mmpt[ecg]'") from error
    return edfio


def count_samples(path: Path) -> int:
    """Samples of a WFDB record whose header doesn't say; raises DataError if its files can't be read."""
    with readable("its samples can't be counted"):
        return wfdb_length(path)


def edf_header(path: Path, width: int) -> Header:
    """Of an .edf file; annotations are no signals."""
    file = _edf(path, _state(path))
    if file.reserved.startswith("EDF+D"):
        raise DataError("the recording is interrupted (EDF+D); cut it into continuous files")
    rates = {signal.sampling_frequency for signal in file.signals}
    if len(rates) != 1:
        shown = ", ".join(f"{signal.label} {signal.sampling_frequency:g} Hz" for signal in file.signals)
        raise DataError(f"expected signals of one sampling rate, got {shown or 'no signal'}")
    leads = tuple(signal.label for signal in file.signals)
    units = tuple(signal.physical_dimension for signal in file.signals)
    length = file.num_data_records * file.signals[0].samples_per_data_record
    return Header(leads, units, float(rates.pop()), length)


def edf_samples(path: Path, width: int, start: int, stop: int) -> np.ndarray:
    """Physical values."""
    return np.stack([signal.data[start:stop] for signal in _edf(path, _state(path)).signals], axis=1)


def array_header(path: Path, width: int) -> Header:
    """Of a .npy or .npz file with the leads of one recording; it knows neither names, unit nor rate."""
    return Header(None, None, None, len(oriented(load_array(path), width)))


def array_samples(path: Path, width: int, start: int, stop: int) -> np.ndarray:
    """Columns in the order of the leads."""
    return oriented(load_array(path), width)[start:stop]


def oriented(array: np.ndarray, width: int) -> np.ndarray:
    """(T, C) from (T, C), (C, T), or (T) for one lead; raises DataError for another number of leads."""
    if array.ndim == 1 and width == 1:
        return array[:, None]
    if array.ndim == 2 and width in array.shape:
        return array if array.shape[1] == width else array.T
    shape = " x ".join(map(str, array.shape)) or "no axis"
    raise DataError(f"{width} leads are named, expected an array of T x {width} or {width} x T, got {shape}")


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy, or the only one (or `signal`) of an .npz; object arrays are pickles and are refused."""
    file: Any = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
    if not isinstance(file, np.ndarray):
        with file:
            if "signal" not in file.files and len(file.files) != 1:
                raise DataError(f"it holds the arrays {', '.join(file.files) or '(none)'}; name one of them 'signal'")
            file = file["signal" if "signal" in file.files else file.files[0]]
    if file.dtype.kind not in "iuf":
        raise DataError(f"expected an array of numbers, got {file.dtype}")
    return file


def csv_header(path: Path, width: int) -> Header:
    """A column a lead, named in the first line; it knows neither unit nor rate."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        leads = next(csv.reader(file), [])
        length = sum(1 for line in file if line.strip())
    if not leads:
        raise DataError("it has no columns")
    return Header(tuple(leads), None, None, length)


def csv_samples(path: Path, width: int, start: int, stop: int) -> np.ndarray:
    """Empty cells are NaN."""
    table = _csv(path, _state(path))
    columns = [table.column(number).to_numpy(zero_copy_only=False) for number in range(table.num_columns)]
    return np.stack([column[start:stop] for column in columns], axis=1)


FORMATS = {
    ".hea": Format(wfdb_header, wfdb_samples),
    ".edf": Format(edf_header, edf_samples),
    ".npy": Format(array_header, array_samples),
    ".npz": Format(array_header, array_samples),
    ".csv": Format(csv_header, csv_samples),
}


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=1)  # a recording may be read in many pieces
def _edf(path: Path, state: tuple[int, int]) -> Any:
    return edf_library().read_edf(path)


@lru_cache(maxsize=1)
def _csv(path: Path, state: tuple[int, int]) -> Any:
    names = csv_header(path, 0).leads or ()
    types = pc.ConvertOptions(
        column_types=dict.fromkeys(names, "float64"), null_values=["", "NaN", "nan", "NA", "null"]
    )
    return pc.read_csv(path, pc.ReadOptions(use_threads=False), convert_options=types)
