"""WFDB records: headers read here, for a data set has many and their units need care; samples by the package wfdb."""

import warnings
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from mmpt.data.builders.header import Header
from mmpt.errors import DataError

STANDARD_RATE = 250.0  # where a header has none, says the format
STANDARD_UNIT = "mV"
NO_FILE = "~"


class WfdbHeader(NamedTuple):
    """The lines of a .hea file: of the record, of its signals or segments, and comments."""

    record: dict[str, str]
    lines: list[str]
    comments: tuple[str, ...]


def wfdb_library() -> ModuleType:
    """The wfdb package; raises DataError if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports, meant for its authors
            import wfdb
    except ImportError as error:
        raise DataError("WFDB records are read by the package wfdb; install it: pip install 'mmpt[ecg]'") from error
    return wfdb


def wfdb_header(path: Path, width: int) -> Header:
    """Of a .hea file, of several segments too."""
    own = _parsed(path)
    rate, length = float(own.record["fs"] or STANDARD_RATE), own.record["sig_len"]
    segments = [line.split()[0] for line in own.lines] if own.record["n_seg"] else []
    parts = [_parsed(path.with_name(f"{name}.hea")) for name in segments if name != NO_FILE]
    if any(part.record["n_seg"] for part in parts):
        raise DataError("its header has segments that have segments")
    signals = [_signals(part) for part in parts or [own]]
    leads = tuple(signal["sig_name"].strip() for signal in signals[0])
    units = tuple(signal["units"] or STANDARD_UNIT for signal in signals[0])
    if len(leads) != int(own.record["n_sig"]) or not all(leads):
        raise DataError(f"its header promises {own.record['n_sig']} signals and names {len([*filter(None, leads)])}")
    names = [f"{name}.hea" for name in segments if name != NO_FILE]
    names += [signal["file_name"] for part in signals for signal in part if signal["file_name"] != NO_FILE]
    return Header(leads, units, rate, int(length) if length else None, tuple(dict.fromkeys(names)), own.comments)


def wfdb_samples(path: Path, width: int, start: int, stop: int) -> np.ndarray:
    """Physical values; what the recorder marked as invalid is NaN."""
    wfdb, name = wfdb_library(), str(path.with_suffix(""))
    if not _parsed(path).record["sig_len"]:  # wfdb can't find a stretch of what has no stated length
        return wfdb.rdrecord(name).p_signal[start:stop]
    return wfdb.rdrecord(name, sampfrom=start, sampto=stop).p_signal


def wfdb_length(path: Path) -> int:
    """Samples of a record whose header doesn't say."""
    return wfdb_library().rdrecord(str(path.with_suffix("")), physical=False).sig_len


def _parsed(path: Path) -> WfdbHeader:
    lines, comments = _wfdb_grammar().parse_header_content(_decoded(path.read_bytes()))
    found = _wfdb_grammar().rx_record.match(lines[0] if lines else "")
    if not found:
        raise DataError("its header has no line about the record")
    said = (line.strip(" \t#") for line in comments)
    return WfdbHeader(found.groupdict(), lines[1:], tuple(line for line in said if line))


def _signals(header: WfdbHeader) -> list[dict[str, str]]:
    found = [_wfdb_grammar().rx_signal.match(line) for line in header.lines]
    if not found or not all(found):
        raise DataError("its header has no line, or one that can't be understood, about a signal")
    return [match.groupdict() for match in found if match]


def _decoded(data: bytes) -> str:
    # wfdb drops what is not ASCII, which turns a microvolt (µV) into a volt
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _wfdb_grammar() -> ModuleType:
    return wfdb_library().io.header
