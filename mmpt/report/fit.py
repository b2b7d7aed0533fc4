"""The page of a fit: scores beside those of one who never looks, epochs, and what was taken for what."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmpt.report.curves import chart
from mmpt.report.figures import Curve
from mmpt.report.markup import Html, duration, element, note, section, table
from mmpt.report.page import publish

if TYPE_CHECKING:
    from mmpt.finetune.result import FitResult

MOST_CLASSES = 40  # of a matrix that a page can hold


def write_fit_report(result: "FitResult", folder: Path) -> Path:
    """Write `folder/report.html`, as a whole or not at all."""
    return publish(folder, [_headline(result, folder), _scores(result), _epochs(result), _confusion(result)])


def _headline(result: "FitResult", folder: Path) -> Html:
    best = f"{result.best_epoch} of {len(result.history)}"
    seconds = sum(epoch["seconds"] for epoch in result.history)
    tiles = [
        *((f"samples: {purpose}", f"{count:,}") for purpose, count in result.samples.items()),
        (f"best epoch by {result.metric}", best),
        ("parameters trained", f"{result.trained:,} of {result.parameters:,}"),
        ("training time", duration(seconds)),
    ]
    shown = [element("div", element("dt", name), element("dd", value)) for name, value in tiles]
    line = f"{type(result.task).__name__}: {result.task.title}; strategy {result.strategy}"
    title = element("h1", folder.resolve().name)
    return element("header", title, element("p", line, class_="lead"), element("dl", *shown, class_="tiles"))


def _scores(result: "FitResult") -> Html:
    head = ["metric", "validation", "trivial", *(["test", "trivial"] if result.test else [])]
    rows = []
    for name, value in result.metrics.items():
        row = [name, str(value), f"{result.trivial[name]:.3f}"]
        row += [str(result.test[name]), f"{result.trivial_test[name]:.3f}"] if result.test else []
        rows.append(row)
    told = "95 % intervals by resampling groups; trivial is one who never looks at a sample."
    return section("Scores", note(told), table(head, rows), *(note(line) for line in result.notes))


def _epochs(result: "FitResult") -> Html:
    charts = [chart(f"{name}, by epoch", {"": _curve(result.history, name)}) for name in ("loss", *result.task.metrics)]
    told = "The loss is training's, a mean over the epoch; everything else is of the validation data behind it."
    return section("Epochs", note(told), element("div", *charts, class_="charts"))


def _curve(history: Sequence[Mapping[str, float]], name: str) -> Curve:
    values = [epoch[name] for epoch in history]
    return Curve(np.arange(1.0, len(values) + 1), np.array([float("nan") if own is None else own for own in values]))


def _confusion(result: "FitResult") -> Html:
    """Counts, and how much of its row each is by its shade."""
    if result.confusion is None:
        return Html("")
    names = [str(name) for name in result.task.facts["classes"]]
    title, of = "Confusion", "test" if result.test else "validation"
    if len(names) > MOST_CLASSES:
        return section(title, note(f"{len(names)} classes are too many to show; result.json has the counts."))
    rows = [
        [name, *_cells(counts, number)]
        for number, (name, counts) in enumerate(zip(names, result.confusion, strict=True))
    ]
    told = f"A row is a true class of the {of} data, a column what was said; the shade is a count's share of its row."
    return section(title, note(told), table(["", *names], rows, numbers=range(1, len(names) + 1)))


def _cells(counts: Sequence[int], own: int) -> list[Html]:
    total = max(sum(counts), 1)
    shades = [round(100 * count / total) for count in counts]
    colours = ["series-3" if number == own else "series-5" for number in range(len(counts))]
    styles = [
        f"background: color-mix(in srgb, var(--{colour}) {shade // 2}%, transparent)"
        for colour, shade in zip(colours, shades, strict=True)
    ]
    return [element("span", f"{count:,}", style=style) for count, style in zip(counts, styles, strict=True)]
