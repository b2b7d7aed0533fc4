"""One ECG recording and what is said of it: leads and units settled, cut into stretches, with labels and report."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mmpt.data.builders.files import BLANK
from mmpt.data.builders.header import Header
from mmpt.data.leads import lead_name, millivolts
from mmpt.errors import DataError

KEYS = ("group", "patient")  # of a row, the first that is there keeps records in one split
NO_UNIT = "none"


@dataclass(frozen=True)
class EcgRules:
    """What holds for a whole data set.

    Args:
        leads: to keep, in the user's order; None keeps all, which then have to be standard ones.
        rate: in Hz, of files that don't say it.
        unit: of files that don't say it; `none` keeps values as they are.
    """

    leads: tuple[str, ...] | None = None
    rate: float | None = None
    unit: str | None = None


class Recording(NamedTuple):
    """One recording, its header read.

    Args:
        name: below the source.
        files: the file that is read, and those that have to lie beside it.
        columns: lead -> its column, and how many millivolts its unit is.
        width: columns in all.
        rate: in Hz.
        length: samples of a lead.
        row: of an array with a recording a row.
        comments: free text of the header.
    """

    name: str
    files: tuple[str, ...]
    columns: Mapping[str, tuple[int, float]]
    width: int
    rate: float
    length: int
    row: int | None = None
    comments: tuple[str, ...] = ()


class EcgRecord(NamedTuple):
    """A stretch of a recording, from sample `start` to `stop`, and its row of the tables; a whole one has no `part`."""

    place: str
    source: Path
    recording: Recording
    table: Mapping[str, Any]
    size: int
    start: int
    stop: int
    part: int | None = None

    @property
    def group(self) -> str:
        """What keeps records in one split."""
        if key := self._group_key:
            return str(self.table[key])
        own = self.recording
        stem = PurePosixPath(own.name).stem
        return stem if own.row is None else f"{stem}:{own.row}"

    @property
    def labels(self) -> dict[str, Any]:
        """Where it comes from, and the table's other columns."""
        own = self.recording
        values: dict[str, Any] = {"file": own.name} if own.row is None else {"row": own.row}
        if own.comments:
            values["comments"] = list(own.comments)
        if self.part is not None:
            values |= {"part": self.part, "start": self.start / own.rate}
        return values | {key: value for key, value in self.table.items() if key not in ("report", self._group_key)}

    @property
    def report(self) -> Any:
        """The text beside it, if there is one."""
        report = self.table.get("report")
        return None if report in BLANK else report

    @property
    def _group_key(self) -> str | None:
        return next((key for key in KEYS if self.table.get(key) not in BLANK), None)


def pieces(
    source: Path, recording: Recording, table: Mapping[str, Any], size: int, max_seconds: float | int | None
) -> Iterator[EcgRecord]:
    """As few stretches as `max_seconds` allows, equally long to a sample; together they are the recording."""
    longest = recording.length if max_seconds is None else max(1, math.floor(max_seconds * recording.rate))
    count = -(-recording.length // longest)
    place = f"{source}: row {recording.row}" if recording.row is not None else f"{source}/{recording.name}"
    for part in range(count):
        start, stop = (number * recording.length // count for number in (part, part + 1))
        here = f"{place}, from {start / recording.rate:g} s" if count > 1 else place
        number = part if count > 1 else None
        yield EcgRecord(here, source, recording, table, size // count, start, stop, number)


def make_recording(name: str, files: tuple[str, ...], header: Header, rules: EcgRules) -> Recording:
    """What header and rules say together; raises DataError where they don't fit."""
    columns = lead_columns(header, rules)
    rate = header.rate if header.rate is not None else rules.rate
    if rate is None or not 0 < rate < math.inf:
        raise DataError(f"expected a sampling rate above 0, got {rate} Hz")
    if not header.length:
        raise DataError("it has no samples")
    units = header.units or (rules.unit,) * len(columns)
    kept = {
        lead: (number, _millivolts(lead, units[number]))
        for lead, number in columns.items()
        if rules.leads is None or lead in rules.leads
    }
    if not kept:
        raise DataError(f"none of its leads ({', '.join(columns)}) is asked for ({', '.join(rules.leads or ())})")
    return Recording(name, files, kept, len(columns), rate, header.length, None, header.comments)


def lead_columns(header: Header, rules: EcgRules) -> dict[str, int]:
    """Lead -> column; raises DataError for a lead that is unknown or there twice."""
    spelled = header.leads or rules.leads or ()
    columns = dict[str, int]()
    for number, raw in enumerate(spelled):
        lead = lead_name(raw, rules.leads or ())
        if lead in columns:
            raise DataError(f"columns '{spelled[columns[lead]]}' and '{raw}' are both lead {lead}; remove one")
        columns[lead] = number
    return columns


def require(place: str, header: Header, rules: EcgRules) -> None:
    """Raises DataError where a setting is missing that a file doesn't say, or speaks against what it says."""
    if header.leads is None and rules.leads is None:
        raise DataError(f"{place}: an array doesn't name its leads; give leads (--leads II, or --leads I II V1)")
    if header.rate is None and rules.rate is None:
        raise DataError(f"{place}: it doesn't say its sampling rate; give source_rate (--source-rate 250)")
    if header.units is None and rules.unit is None:
        raise DataError(f"{place}: it doesn't say its unit; give unit (--unit mV, or none to keep values as they are)")
    if header.units and rules.unit == NO_UNIT:
        raise DataError(f"{place}: it says its unit ({header.units[0]}), which unit none would drop; leave unit out")


def _millivolts(lead: str, unit: str | None) -> float:
    try:
        return 1.0 if unit in (None, NO_UNIT) else millivolts(unit)
    except DataError as error:
        raise DataError(f"lead {lead}: {error}") from error
