"""Probes on the page: bars beside the untrained encoder and baselines, tables, and curves over shares of the labels."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.downstream.result import CURVE_CAPTION, ENDINGS, KINDS, PAIR_CAPTION, SCORE_NAMES
from mmpt.report.figures import Band, series_class, share_chart
from mmpt.report.markup import Html, element, escape, join, note, section, table

SCORES = {f"{kind}{ending}": (kind, score) for kind in KINDS for score, ending in ENDINGS.items()}


def probes_section(run: Path) -> Html:
    """Every probe of the run, of labels and of pairs, or how to make one."""
    made = [_of_file(file, _probe) for file in sorted(run.glob("probe-*.json"))]
    if not made:
        hint = element("code", f"mmpt probe {run} DATA --label FIELD")
        made = [note("There is no probe of this run yet; ", hint, " makes one.")]
    return section("Probes", *made, *(_of_file(file, _pairs) for file in sorted(run.glob("retrieve-*.json"))))


def _of_file(file: Path, shown: Callable[[Mapping[str, Any]], Html]) -> Html:
    try:
        return shown(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return note(f"{file.name} can't be read as a probe's result ({error!r}).")


def _pairs(found: Mapping[str, Any]) -> Html:
    """Recall through a linear map, a chart for each way at the middle rank."""
    streams = " and ".join(found["streams"])
    place = f"of {found['data']}, {found['pairs']['train']:,} training pairs, step {found['step']}"
    parts = [element("h3", f"retrieval between {streams} ", element("small", place))]
    for way in found["ways"]:
        for at, curves in way["recall"].items():
            what = f"{way['name']}: recall at {at} by share of the training pairs"
            chance = f"chance {100 * way['chance'][at]:.1f} %, without a map {100 * way['direct'][at]['value']:.1f} %"
            parts += curves_figure(curves, f"{what} ({chance})", f"{what}, {found['data']}")
    return join([*parts, note("; ".join([PAIR_CAPTION, *found["notes"]]), ".")])


def _probe(found: Mapping[str, Any]) -> Html:
    streams, step = " + ".join(found["streams"]), found["step"]
    heading = element("h3", f"{found['label']} ", element("small", f"of {found['data']}, from {streams}, step {step}"))
    ending, chosen = ENDINGS[found["score"]], SCORE_NAMES[found["score"]]
    scores = [score for score in SCORES if any(row.get(score) for row in found["rows"])]
    bars = [
        element(
            "figure", element("figcaption", f"{KINDS[kind]} probe, {chosen} with 95 % interval"), *_bars(found, score)
        )
        for score, (kind, _) in SCORES.items()
        if score in scores and score == f"{kind}{ending}"
    ]
    head = ["features", *(_told(score) for score in scores)]
    rows = [[row["name"], *(_interval(row.get(score)) for score in scores)] for row in found["rows"]]
    shown = element("div", *bars, class_="charts pair")
    return join([heading, shown, table(head, rows, numbers=range(1, len(head))), _caption(found), *_curves(found)])


def _told(score: str) -> str:
    kind, name = SCORES[score]
    return KINDS[kind] if name == "accuracy" else f"{KINDS[kind]}, {SCORE_NAMES[name]}"


def _curves(found: Mapping[str, Any]) -> list[Html]:
    """Of the shares of the labels, where they were asked for."""
    curves = found.get("curves", ())
    if not curves:
        return []
    what = f"{KINDS[found['kind']]} {SCORE_NAMES[found['score']]} by share of the training labels"
    name = f"{what}: {found['label']} of {found['data']}, {' + '.join(found['streams'])}"
    return curves_figure(curves, what, name)


def curves_figure(curves: Sequence[Mapping[str, Any]], what: str, name: str) -> list[Html]:
    """A chart of the means with their intervals, and the same as a table with deviations."""
    keys = [element("span", own["name"], class_=f"key {series_class(n)}") for n, own in enumerate(curves)]
    chart = share_chart({own["name"]: _band(own) for own in curves}, name=name)
    figure = element("figure", element("figcaption", what, " ", join(keys, " ")), chart)
    points = curves[0]["points"]
    head = ["features", *(f"{point['share']:g} ({point['samples']})" for point in points)]
    rows = [[own["name"], *(_point(point["score"], point["deviation"]) for point in own["points"])] for own in curves]
    gains = [point["gain"] for point in points]
    rows += [["over untrained", *(_interval(gain) for gain in gains)]] if all(gains) else []
    return [
        element("div", figure, class_="charts pair"),
        table(head, rows, numbers=range(1, len(head))),
        note(CURVE_CAPTION, "."),
    ]


def _band(curve: Mapping[str, Any]) -> Band:
    scores = [point["score"] for point in curve["points"]]
    shares = np.array([float(point["share"]) for point in curve["points"]])
    return Band(shares, *(np.array([float(score[name]) for score in scores]) for name in ("value", "low", "high")))


def _point(score: Mapping[str, float], deviation: float) -> Html:
    bounds = element("small", f"{100 * score['low']:.1f} to {100 * score['high']:.1f}")
    return join([f"{100 * score['value']:.1f} ± {100 * deviation:.1f} %", bounds], " ")


def _bars(found: Mapping[str, Any], score: str) -> list[Html]:
    """A bar and its whisker for each kind of features, drawn by the browser."""
    made = []
    for row in found["rows"]:
        if row.get(score) is None:
            continue
        value, low, high = (100 * float(row[score][name]) for name in ("value", "low", "high"))
        style = "bar own" if row["name"] == "pretrained" else "bar"
        bar = element("span", class_=style, style=f"width:{value:.2f}%")
        whisker = element("span", class_="whisker", style=f"left:{low:.2f}%;width:{high - low:.2f}%")
        track = element("span", bar, whisker, class_="track")
        number = element("span", f"{value:.1f} %", class_="number")
        made.append(element("div", element("span", row["name"], class_="label"), track, number, class_="row"))
    return made


def _interval(score: Mapping[str, float] | None) -> Html:
    if score is None:
        return escape("-")
    bounds = element("small", f"{100 * score['low']:.1f} to {100 * score['high']:.1f}")
    return join([f"{100 * score['value']:.1f} %", bounds], " ")


def _caption(found: Mapping[str, Any]) -> Html:
    sizes = ", ".join(f"{count:,} {part}" for part, count in found["samples"].items())
    chosen = SCORE_NAMES[found["score"]]
    lines = [f"{len(found['classes'])} classes; samples: {sizes}; settings chosen by {chosen} on {found['chosen_by']}"]
    gain = found["gain"]
    if gain:
        value, low, high = (f"{100 * gain[name]:+.1f}" for name in ("value", "low", "high"))
        lines.append(f"{KINDS[found.get('kind', 'linear')]} {chosen} over untrained: {value} points, {low} to {high}")
    return note("; ".join([*lines, *found["notes"]]), ".")
