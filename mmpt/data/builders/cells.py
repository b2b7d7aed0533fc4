"""Text of laboratory cells -> values of a column, and what the training split says about the column."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mmpt.data.builders.cell_report import CellReport
from mmpt.data.builders.lab_rows import NUMBER, Entries
from mmpt.data.lab_table import LabTable
from mmpt.errors import DataError

AGGREGATES = ("first", "mean", "last")
MOST_CATEGORIES = 20  # of a column of words that nobody declared
EDGES = 17
LARGEST = float(np.finfo(np.float32).max)
DATE = re.compile(
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?|\d{1,2}[- ][A-Za-z]{3,9}[- ,]+\d{2,4}.*|\d{1,2}:\d{2}(:\d{2})?.*",
    re.ASCII,
)
BOUND = re.compile(r"[<>≤≥]=?\s*[+-]?\.?\d.*|[+-]?[\d.]+\s*[<>≤≥]")
INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)


@dataclass(frozen=True)
class CellRules:
    """How cells become values.

    Args:
        wide: a column of few words may be taken for categories undeclared.
        categorical: columns declared so.
        units: declared ones.
        aggregate: which of a sample's several cells counts.
        clip: the two quantiles that values are clipped at.
    """

    wide: bool
    categorical: Collection[str]
    units: Mapping[str, str | None]
    aggregate: str
    clip: tuple[float, float]


class LabColumn(NamedTuple):
    """One column of the `labs` field.

    Args:
        facts: name, unit, kind, and categories where it has them.
        statistics: of the training split.
        sample: who has a value, ascending.
        value: theirs, not clipped; a category's index.
    """

    facts: dict[str, Any]
    statistics: dict[str, Any]
    sample: np.ndarray
    value: np.ndarray


def make_column(
    entries: Entries, table: LabTable, training: np.ndarray, rules: CellRules, report: CellReport
) -> LabColumn | None:
    """Read the cells of a column; None where it has no value in the training split or can't be read.

    Args:
        entries: the cells.
        table: where they stand.
        training: which samples are in the training split.
        rules: how cells become values.
        report: told of every cell that is left out.
    """
    entries, unit = keep_unit(entries, training, rules.units.get(entries.name), report)
    inside = training[entries.sample]
    if not inside.any():
        report.empty(entries.name, len(inside))
        return None
    facts: dict[str, Any] = {"name": entries.name, "unit": unit, "kind": "numeric"}
    reasons = [reason_against(text) for text in entries.texts]
    if categories := _categories(entries, inside, reasons, rules, report):
        facts |= {"kind": "categorical", "categories": categories}
        index = {text: float(number) for number, text in enumerate(categories)}
        values = [index.get(text, np.nan) for text in entries.texts]
        reasons = [f"category '{text:.40}' does not occur in the training split" for text in entries.texts]
    else:
        values = [np.nan if reason else float(text) for text, reason in zip(entries.texts, reasons, strict=True)]
    value = np.array(values)[entries.code]
    for cell in np.flatnonzero(np.isnan(value)):
        report.cell(entries.name, table.place(int(entries.row[cell]), entries.name), reasons[entries.code[cell]])
    good = ~np.isnan(value)
    sample, value = aggregate_cells(entries.select(good), value[good], rules.aggregate)
    fitted = value[training[sample]]
    if not len(fitted):  # told of as unreadable
        return None
    statistics = category_statistics(fitted, len(categories)) if categories else number_statistics(fitted, rules.clip)
    return LabColumn(facts, statistics, sample, value)


def reason_against(text: str) -> str:
    """Why a cell holds no number; empty if it does."""
    if NUMBER.fullmatch(text):
        return "" if abs(float(text)) <= LARGEST else f"'{text:.40}' is more than float32 holds"
    if DATE.fullmatch(text):
        return f"'{text:.40}' is a date or a time, expected a number"
    if BOUND.fullmatch(text):
        return f"'{text:.40}' is a bound, not a measured value"
    if INFINITE.fullmatch(text):
        return f"'{text}' is not finite"
    return f"'{text:.40}' is not a number"


def keep_unit(
    entries: Entries, training: np.ndarray, declared: str | None, report: CellReport
) -> tuple[Entries, str | None]:
    """The cells in the column's unit, which is the declared one or the training split's commonest.

    A cell without a unit counts as in the column's; spelling in capitals, spaces and the two signs for micro make no
    other unit.
    """
    if entries.unit is None:
        return entries, declared
    texts, code = entries.unit
    fitted = np.bincount(code[(code >= 0) & training[entries.sample]], minlength=len(texts))
    unit = declared or _commonest(texts, fitted)
    if unit is None:
        return entries, None
    fitting = [number for number, text in enumerate(texts) if spelled_alike(text) == spelled_alike(unit)]
    kept = (code < 0) | np.isin(code, fitting)
    if not kept.all():
        others = {texts[number]: int((code == number).sum()) for number in np.unique(code[~kept])}
        report.units(entries.name, unit, int(kept.sum()), others)
    return entries.select(kept), unit


def spelled_alike(unit: str) -> str:
    """A unit without the differences of spelling that mean nothing."""
    return unit.casefold().replace("μ", "u").replace(" ", "")  # casefold makes the micro sign a Greek mu


def aggregate_cells(entries: Entries, value: np.ndarray, aggregate: str) -> tuple[np.ndarray, np.ndarray]:
    """One value a sample: the first or last in time (of the same time: in the table), or the mean."""
    time = np.zeros(len(value)) if entries.time is None else entries.time
    order = np.lexsort((entries.row, time, entries.sample))
    sample, start, counts = np.unique(entries.sample[order], return_index=True, return_counts=True)
    value = value[order]
    if aggregate == "mean":
        return sample, np.add.reduceat(value, start) / counts if len(start) else value
    return sample, value[start if aggregate == "first" else start + counts - 1]


def number_statistics(values: np.ndarray, clip: tuple[float, float]) -> dict[str, Any]:
    """Of the clipped values; a column of one value has a deviation of 1, so that it standardises to 0."""
    values = np.sort(values)  # the sums must not depend on the order of the rows
    low, high = (float(edge) for edge in np.quantile(values, clip))
    values = np.clip(values, low, high)
    std = float(values.std())
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "std": std if low < high else 1.0,
        "low": low,
        "high": high,
        "quantiles": np.quantile(values, np.linspace(0, 1, EDGES)).tolist(),
    }


def category_statistics(values: np.ndarray, categories: int) -> dict[str, Any]:
    """How often each category occurs."""
    return {"count": len(values), "counts": np.bincount(values.astype(np.int64), minlength=categories).tolist()}


def check_rules(rules: CellRules) -> None:
    """Raises DataError for rules that no cell can be read by."""
    low, high = rules.clip
    if not 0 <= low < high <= 1:
        raise DataError(f"clip takes two quantiles between 0 and 1, the lower first, got {low} and {high}")
    if rules.aggregate not in AGGREGATES:
        raise DataError(f"aggregate is {', '.join(AGGREGATES)}, got '{rules.aggregate}'")
    if rules.aggregate == "mean" and rules.categorical:
        raise DataError(
            f"aggregate 'mean' has no meaning for the categories of {', '.join(rules.categorical)}; use first or last"
        )


def _categories(
    entries: Entries, inside: np.ndarray, reasons: Sequence[str], rules: CellRules, report: CellReport
) -> list[str]:
    """The training split's, sorted; empty for a numeric column."""
    counts = np.bincount(entries.code[inside], minlength=len(entries.texts))
    there = [number for number, count in enumerate(counts) if count]
    words = sorted((entries.texts[number] for number in there), key=_as_read)
    if entries.name in rules.categorical:
        return words
    if rules.wide and len(words) <= MOST_CATEGORIES and all(map(_is_word, words)):
        return words
    bad = [number for number in there if reasons[number]]
    cells = int(counts[bad].sum())
    if 2 * cells > counts.sum():
        examples = sorted(bad, key=lambda number: -counts[number])[:3]
        report.unreadable(entries.name, cells, int(counts.sum()), [entries.texts[number] for number in examples])
    return []


def _as_read(text: str) -> tuple[float, str]:
    """Numbers by size, before words by letter."""
    return (float(text), text) if NUMBER.fullmatch(text) else (float("inf"), text)


def _is_word(text: str) -> bool:
    return not any(pattern.fullmatch(text) for pattern in (NUMBER, DATE, BOUND, INFINITE))


def _commonest(units: Sequence[str], counts: np.ndarray) -> str | None:
    totals: Counter[str] = Counter()
    for unit, count in zip(units, counts, strict=True):
        totals[spelled_alike(unit)] += int(count)
    if not totals.total():
        return None
    order = sorted(range(len(units)), key=lambda n: (-totals[spelled_alike(units[n])], -counts[n], units[n]))
    return units[order[0]]
