"""`mmpt build ecg`: WFDB and EDF records, arrays or CSV files, with reports and labels, -> shards."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmpt.data.builders.ecg_maker import ECG, MICRO, EcgMaker
from mmpt.data.builders.ecg_records import NO_UNIT, EcgRecord, EcgRules
from mmpt.data.builders.ecg_sources import ecg_records, input_files
from mmpt.data.builders.files import distinct
from mmpt.data.builders.lead_quality import CONDITIONS
from mmpt.data.builders.steps import Work, build_data_set, first_notes, indented_notes, path_of
from mmpt.data.builders.texts import TrainingTexts
from mmpt.data.building import nothing_good
from mmpt.data.leads import STANDARD, in_order, millivolts, nearest_lead, own_names
from mmpt.data.manifest import Manifest
from mmpt.data.schema import Field
from mmpt.data.shard import Part
from mmpt.data.split import Shares
from mmpt.data.writer import DEFAULT_SHARES, SHARD_BYTES
from mmpt.errors import DataError


def build_ecg(
    source: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    reports: str | Path | None = None,
    leads: Sequence[str] | None = None,
    sample_rate: float | int | None = None,
    source_rate: float | int | None = None,
    unit: str | None = None,
    max_seconds: float | int | None = None,
    tokenizer: str | Path | None = None,
    vocabulary: int = 8192,
    algorithm: str = "bpe",
    processes: int = 1,
    samples_per_shard: int = 1000,
    shard_bytes: int = SHARD_BYTES,
    split: Shares = DEFAULT_SHARES,
    progress: bool = False,
) -> Manifest:
    """Build an ECG data set; run again after a kill, it goes on where it stopped.

    A column of NaN is a lead that was not observed: it is missing, flat (all equal), clipped (5 % of its samples or
    more at its own extremes, three or more in a row) or has gaps (of more than 0.1 s, or 1 % of its samples; shorter
    ones are bridged by straight lines). A record without an observed lead is left out.

    Args:
        source: a folder (searched to the bottom) or .zip of WFDB records (.hea), .edf, .csv (a column a lead), .npy and
            .npz files (T x C or C x T, as the number of leads tells), or one .npy or .npz file with a recording a row,
            N x T or N x T x C. In an .npz with several arrays the one named `signal` is read.
        out: new or empty folder, or one that the same call left half-built.
        labels: .csv or .jsonl with columns `file` (path below the source, or a name; with or without its ending) or,
            for one array, `row` (from 0). `report` becomes the `text` field, `group` or else `patient` keeps records in
            one split, `label` and the others are kept in `labels`.
        reports: such a table with a column `report`; may be the labels file.
        leads: to keep, and the columns of arrays in their order; None keeps all, which then have to be standard leads.
        sample_rate: in Hz; records of other rates are resampled. None takes the first record's.
        source_rate: in Hz, of arrays and .csv files, which don't say it.
        unit: of arrays and .csv files: V, mV, uV, nV, which all become mV; `none` keeps values as they are.
        max_seconds: longer records are cut into as few equal stretches as this allows, each a sample with the record's
            report and labels, and `part` and `start` (seconds) among these.
        tokenizer: for reports: a local transformers tokenizer folder; None trains one on the training split.
        vocabulary: of a trained tokenizer.
        algorithm: `bpe` or `wordpiece`.
        processes: how many work; the result does not depend on it.
        samples_per_shard: inputs a shard at most, bad ones included.
        shard_bytes: bytes of input a shard at most.
        split: shares of train, validation and test among groups (by default a file's stem, or a row, is its group).
        progress: say on stderr how far it is.

    Raises:
        DataError: sources, settings or folder can't be used, or there is no good record.
    """
    work = Work(
        out, tokenizer, vocabulary, algorithm, (samples_per_shard, shard_bytes), processes, split, shown=progress
    )
    given = None if source_rate is None else float(source_rate)
    rules = EcgRules(None if leads is None else own_names(leads), given, unit)
    check_settings(rules, sample_rate, max_seconds)
    path, tables, rejected = Path(source), distinct(labels, reports), Part()
    records = ecg_records(path, tables, rules, max_seconds, rejected)
    if not records:
        raise DataError(nothing_good([rejected]))
    columns, rate = kept_leads(path, records, rules), float(sample_rate or records[0].recording.rate)
    plan = {
        "builder": "ecg",
        "source": str(source),
        "labels": path_of(labels),
        "reports": path_of(reports),
        "leads": list(rules.leads) if rules.leads else None,
        "rates": [sample_rate, source_rate],
        "unit": unit,
        "max_seconds": max_seconds,
    }
    texts = TrainingTexts(
        lambda: ((record.report, record.group) for record in records if not record.part),  # one, cut or not
        work.shares,
        "reports",
        "no record has a report",
    )
    facts = {"leads": list(columns), "sample_rate": _plain(rate), "unit": None if unit == NO_UNIT else "mV"}
    return build_data_set(
        work,
        plan,
        [*tables, *input_files(path, records)],
        records,
        partial(EcgMaker, columns, rate),
        texts=texts if reports is not None or any(record.report is not None for record in records) else None,
        fields={"ecg": Field("ecg", ECG.kind, ECG.members, facts)},
        statistics=lambda parts: {"ecg": ecg_statistics(parts, columns, rate)},
        rejected=rejected,
        what="records",
    )


def check_settings(rules: EcgRules, sample_rate: float | int | None, max_seconds: float | int | None) -> None:
    """Raises DataError for settings that no data could fit."""
    if rules.leads == ():
        raise DataError("leads: expected at least one name, got none")
    for name, value in (("sample_rate", sample_rate), ("source_rate", rules.rate), ("max_seconds", max_seconds)):
        if value is not None and not 0 < value < float("inf"):
            raise DataError(f"{name} must be above 0, got {value}")
    if rules.unit not in (None, NO_UNIT):
        try:
            millivolts(rules.unit)
        except DataError as error:
            raise DataError(f"{error}; or {NO_UNIT}, which keeps values as they are") from error


def kept_leads(source: Path, records: Sequence[EcgRecord], rules: EcgRules) -> tuple[str, ...]:
    """The data set's leads: those that were asked for, or all that there are; raises DataError for a mistaken one."""
    there = {lead for record in records for lead in record.recording.columns}
    for lead in rules.leads or ():
        if lead not in there and lead not in STANDARD:
            raise DataError(f"{source}: no record has lead '{lead}'; did you mean '{nearest_lead(lead, there)}'?")
    return in_order(rules.leads or there)


def ecg_statistics(parts: Sequence[Part], leads: Sequence[str], rate: float) -> dict[str, Any]:
    """Mean and deviation a lead (observed samples of the training split), and of all splits: seconds, leads, rates.

    `notes` names the first records that lack leads or were resampled, a sentence each.
    """
    total, rates = Part(), Counter[str]()
    conditions = {name: [0] * len(leads) for name in CONDITIONS}
    for part in parts:
        total.add_tally(part.tally)
        rates.update(f"{value / 1000:g}" for value in part.observed.get("millihertz", []))
        for column, lead in enumerate(leads):
            for code in part.observed.get(f"lead {lead}", []):
                conditions[CONDITIONS[code]][column] += 1
    sums = [total.tally.get(name, [0] * len(leads)) for name in ("count", "sum", "square")]
    moments = [_moments(*own) for own in zip(*sums, strict=True)]
    lengths = sorted(row["ecg.length"] for part in parts for row in part.rows) or [0]
    places = {"min": 0, "median": (len(lengths) - 1) // 2, "max": -1}
    seconds = {"total": sum(lengths) / rate} | {name: lengths[place] / rate for name, place in places.items()}
    return {
        "mean": [mean for mean, _ in moments],
        "std": [std for _, std in moments],
        "seconds": seconds,
        "leads": conditions,
        "resampled": {key: rates[key] for key in sorted(rates, key=float)},
        "notes": first_notes(parts),
    }


def _moments(count: int, total: int, square: int) -> tuple[float, float]:
    """Mean and deviation; 0 and 1 of a lead that was never observed."""
    if not count:
        return 0.0, 1.0
    variance = max(count * square - total * total, 0) / (count * MICRO) ** 2  # a difference of integers loses nothing
    return total / count / MICRO, variance**0.5


def _plain(rate: float) -> float | int:
    return int(rate) if rate == int(rate) else rate


def summary_lines(manifest: Manifest) -> list[str]:
    """For people: rate and length, leads that were not observed everywhere, and what was resampled."""
    own, facts = manifest.statistics["ecg"], manifest.fields["ecg"].facts
    seconds, samples = own["seconds"], own["samples"]
    lines = [
        f"{len(facts['leads'])} leads at {facts['sample_rate']} Hz in {facts['unit'] or 'no unit'}, "
        f"records of {seconds['min']:g} to {seconds['max']:g} s, {seconds['total'] / 60:.1f} minutes in all"
    ]
    for column, lead in enumerate(facts["leads"]):
        counts = {name: own["leads"][name][column] for name in CONDITIONS}
        if (observed := counts.pop("observed")) < samples:
            why = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
            lines.append(f"{lead}: observed in {observed} of {samples} ({why})")
    lines += indented_notes(own, "leads")
    lines += [f"resampled: {count} from {rate} Hz" for rate, count in own["resampled"].items()]
    return lines + indented_notes(own, "resampled")
