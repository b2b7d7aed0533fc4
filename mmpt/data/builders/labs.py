"""`mmpt build labs`: a laboratory table, wide or long, with notes and labels -> shards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmpt.data.builders.cell_report import CellReport
from mmpt.data.builders.cells import CellRules, check_rules, make_column
from mmpt.data.builders.lab_records import LabRecord, LabRecords
from mmpt.data.builders.lab_rows import Entries, Keys, Samples, long_entries, read_samples, wide_entries
from mmpt.data.builders.parallel import Draft
from mmpt.data.builders.steps import Work, build_data_set
from mmpt.data.builders.texts import LABELS, TrainingTexts, text_members
from mmpt.data.encode import encode
from mmpt.data.lab_table import LabTable, nearest, read_lab_table, read_names, read_units
from mmpt.data.manifest import Manifest
from mmpt.data.schema import Field, declare
from mmpt.data.split import Shares
from mmpt.data.writer import DEFAULT_SHARES, SHARD_BYTES
from mmpt.errors import DataError

LABS = declare("labs", "labs.npy")
FORMS = ("auto", "wide", "long")


@dataclass(frozen=True)
class LabMaker:
    """Record -> sample, in any process; without notes there is no tokenizer folder."""

    tokenizer_folder: Path | None

    def __call__(self, record: LabRecord) -> Draft:
        if record.damage:
            raise DataError(record.damage)
        members, tokens = text_members(record.note, self.tokenizer_folder)
        members["labs"] = encode(LABS, record.cells)
        if record.labels:
            members["labels"] = encode(LABELS, record.labels)
        return Draft(members, record.group, tokens)


def build_labs(
    table: str | Path,
    out: str | Path,
    *,
    form: str = "auto",
    columns: Sequence[str] | None = None,
    categorical: Sequence[str] = (),
    units: str | Path | Mapping[str, str | None] | None = None,
    labels: Sequence[str] = (),
    id_key: str = "patient",
    visit_key: str = "visit",
    group_key: str = "group",
    label_key: str = "label",
    note_key: str = "note",
    item_key: str = "item",
    value_key: str = "value",
    unit_key: str = "unit",
    time_key: str = "time",
    aggregate: str = "last",
    clip: tuple[float | int, float | int] = (0.001, 0.999),
    tokenizer: str | Path | None = None,
    vocabulary: int = 8192,
    algorithm: str = "bpe",
    processes: int = 1,
    samples_per_shard: int = 1000,
    shard_bytes: int = SHARD_BYTES,
    split: Shares = DEFAULT_SHARES,
    progress: bool = False,
) -> Manifest:
    """Build a laboratory data set; run again after a kill, it goes on where it stopped.

    A cell that is empty or says NA, NaN, null or None is missing. One that holds no number (`pending`, a date, a bound
    such as `<5`, an infinity) is left out and counted, its row stays; a column of the training split with more of those
    than of numbers refuses the build. A sample without a value is kept if it has a note.

    Args:
        table: .csv(.gz), .tsv(.gz) or .parquet, read as a whole.
        out: new or empty folder, or one that the same call left half-built.
        form: `wide` (a sample a row, a lab a column), `long` (a cell a row; the rows of an id and visit are a sample),
            or `auto` (long where there are columns `item` and `value`).
        columns: the lab columns, or the items of the long form; None takes every column that is no key or label, or
            every item by name.
        categorical: those of them that hold categories: the training split's, others are left out. In the wide form a
            column of at most 20 different words and no number is taken for one undeclared.
        units: of columns, as a mapping or a .csv (columns `column`, `unit`), .json or .yaml file. In the long form the
            unit that most cells of the training split have is the column's, if none is stated; cells in others are
            left out.
        labels: further columns for the `labels` field.
        id_key: the patient; required by the long form.
        visit_key: tells samples of a patient apart, in the long form.
        group_key: what keeps samples in one split; without it the patient, without that every row.
        label_key: becomes `label` in the `labels` field.
        note_key: becomes the `text` field.
        item_key: the lab's name, in the long form.
        value_key: its value.
        unit_key: the value's unit.
        time_key: a number or ISO date that puts a sample's values in order; no lab in the wide form.
        aggregate: which of several values of a sample counts: the `first`, the `mean` or the `last`.
        clip: quantiles of the training split that mean and deviation are taken between.
        tokenizer: for notes: a local transformers tokenizer folder; None trains one on the training split.
        vocabulary: of a trained tokenizer.
        algorithm: `bpe` or `wordpiece`.
        processes: how many work; the result does not depend on it.
        samples_per_shard: samples a shard at most, bad ones included.
        shard_bytes: bytes of input a shard at most.
        split: shares of train, validation and test among groups.
        progress: say on stderr how far it is.

    Raises:
        DataError: table, settings or folder can't be used, or there is no good sample.
    """
    work = Work(
        out, tokenizer, vocabulary, algorithm, (samples_per_shard, shard_bytes), processes, split, shown=progress
    )
    path, unit_of = Path(table), read_units(units)
    names = read_names(path)
    asked = Keys(
        id_key, visit_key, group_key, label_key, note_key, item_key, value_key, unit_key, time_key, tuple(labels)
    )
    keys = asked.within(path, names)
    long = is_long(path, form, keys, asked)
    rules = CellRules(not long, tuple(categorical), unit_of, aggregate, (float(clip[0]), float(clip[1])))
    check_rules(rules)
    report = CellReport(path)
    records = read_records(path, names, columns, keys, rules, work.shares, report)
    plan = {
        "builder": "labs",
        "table": str(table),
        "form": "long" if long else "wide",
        "columns": list(columns) if columns else None,
        "cells": asdict(rules),
        "keys": asdict(keys),
    }
    notes = TrainingTexts(
        lambda: ((record.note, record.group) for record in records), work.shares, "notes", "no sample has a note"
    )
    return build_data_set(
        work,
        plan,
        [path],
        records,
        LabMaker,
        texts=notes if records.noted else None,
        fields={"labs": labs_field(records)},
        statistics=lambda parts: {"labs": records.statistics(report)},
        rejected=report.part,
        what="samples",
    )


def is_long(path: Path, form: str, keys: Keys, asked: Keys) -> bool:
    """Whether a row is a cell; raises DataError for a form that the table does not have."""
    if form not in FORMS:
        raise DataError(f"form is {', '.join(FORMS)}, got '{form}'")
    if form == "wide" or (form == "auto" and not (keys.item and keys.value)):
        return False
    needed = {"id": keys.id, "item": keys.item, "value": keys.value}
    absent = [f"'{getattr(asked, name)}'" for name, there in needed.items() if not there]
    if absent:
        raise DataError(f"{path}: the long form needs a column {' and '.join(absent)}; name it with the keys")
    return True


def read_records(
    path: Path,
    names: Sequence[str],
    columns: Sequence[str] | None,
    keys: Keys,
    rules: CellRules,
    shares: Shares,
    report: CellReport,
) -> LabRecords:
    """The table's samples; raises DataError where no column can be used."""
    beside = keys.of_sample()
    labs = list(dict.fromkeys(columns or (name for name in names if name not in (*beside, keys.time))))
    if rules.wide:
        _check_columns(path, names, labs, beside, rules)
    of_cells = labs if rules.wide else keys.of_cell(rules.aggregate)
    table = read_lab_table(path, names, list(dict.fromkeys([*beside, *of_cells])), report.part)
    samples = read_samples(table, keys, report, long=not rules.wide)
    entries = wide_entries(table, labs) if rules.wide else _item_entries(table, samples, columns, rules, report)
    training = samples.training(shares)
    made = [make_column(own, table, training, rules, report) for own in entries]
    report.refuse_unreadable()
    if not (good := [column for column in made if column]):
        raise DataError(f"{path}: none of {len(made)} lab columns has a value in the training split")
    return LabRecords(samples, good, training)


def labs_field(records: LabRecords) -> Field:
    """The schema."""
    return Field("labs", LABS.kind, LABS.members, {"columns": [column.facts for column in records.columns]})


def summary_lines(manifest: Manifest) -> list[str]:
    """A line a column: name, unit, how often it was measured, and its mean and deviation or its categories."""
    statistics = manifest.statistics["labs"]
    lines = []
    for facts, own in zip(manifest.fields["labs"].facts["columns"], statistics["columns"], strict=True):
        name = facts["name"] + (f" [{facts['unit']}]" if facts["unit"] else "")
        if facts["kind"] == "numeric":
            values = f"{own['mean']:.4g} ± {own['std']:.4g}"
        else:
            shares = zip(facts["categories"], own["counts"], strict=True)
            values = ", ".join(f"{category} {count / own['count']:.1%}" for category, count in shares)
        lines.append(f"{name}: in {own['observed']:.1%} of the training samples, {values}")
    return lines


def _check_columns(
    path: Path, names: Sequence[str], labs: Sequence[str], beside: Sequence[str], rules: CellRules
) -> None:
    nearest(path, labs, names, "column")
    nearest(path, rules.units, names, "column for a unit")
    nearest(path, rules.categorical, labs, "lab column")
    if both := [name for name in labs if name in beside]:
        raise DataError(f"{path}: column '{both[0]}' is named as a lab and as a key or label; it can be one of them")


def _item_entries(
    table: LabTable, samples: Samples, columns: Sequence[str] | None, rules: CellRules, report: CellReport
) -> Iterable[Entries]:
    items = table.coded(samples.keys.item)
    labs = list(dict.fromkeys(columns or sorted(items.texts)))
    nearest(table.path, (*labs, *rules.units), items.texts, f"{samples.keys.item}")
    nearest(table.path, rules.categorical, labs, "lab column")
    return long_entries(samples, items, labs, rules.aggregate, report)
