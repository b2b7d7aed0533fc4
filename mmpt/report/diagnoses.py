"""What `mmpt diagnose` found, on the page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.report.figures import Curve, line_chart, series_class
from mmpt.report.markup import Html, element, join, note, section, table

GROUPS = ("complete", "real", "masked")


def diagnoses_section(run: Path) -> Html:
    """Every diagnosis of the run, or how to make one."""
    files = sorted(run.glob("diagnosis*.json"))
    if not files:
        hint = element("code", f"mmpt diagnose {run}")
        return section("Diagnostics", note("There is no diagnosis of this run yet; ", hint, " makes one."))
    return section("Diagnostics", *(_file(file) for file in files))


def _file(file: Path) -> Html:
    try:
        return _diagnosis(json.loads(file.read_text(encoding="utf-8")), file.stem)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return note(f"{file.name} can't be read as a diagnosis ({error!r}).")


def _diagnosis(found: Mapping[str, Any], name: str) -> Html:
    which = "untrained" if found["step"] is None else f"step {found['step']}"
    looked = ", ".join(f"{count:,} of {own} ({found['splits'][own]})" for own, count in found["samples"].items())
    parts = [element("h3", f"{name} ", element("small", f"{which}; samples: {looked}"))]
    for stream in found["streams"]:
        parts += _stream(stream, name)
    if found["experts"]:
        parts.append(_experts(found["experts"]))
    rows = [[name, meaning] for name, meaning in found["meanings"].items()]
    return join([*parts, *(note(own) for own in found["notes"]), table(["figure", "what it means"], rows)])


def _stream(stream: Mapping[str, Any], name: str) -> list[Html]:
    head = ["block", *(f"effective rank, {group}" for group in GROUPS), *(f"90 %, {group}" for group in GROUPS)]
    head += ["masked outside", "alike in a row", "anisotropy", "linear shortcut", "no map", "outliers"]
    rows = []
    for own in stream["blocks"]:
        ranks = [_told(own["effective_rank"][group], 1) for group in GROUPS]
        directions = [_told(own["directions"][group], 0) for group in GROUPS]
        keys = ("masked_outside", "alike", "anisotropy", "shortcut", "identity")
        rows.append(
            [own["block"], *ranks, *directions, *(_told(own[key], 3) for key in keys), ", ".join(own["outliers"])]
        )
    lines = ["masked tokens are dropped: they are in no block"] if stream["dropped"] else []
    lines += [
        f"outlier dimension {own['dimension']}: {own['deviations']:+.1f} deviations, in {own['blocks']} blocks, "
        f"correlation with the place {own['place']:+.2f}"
        for own in stream["outliers"]
    ]
    if stream["anisotropy_without"] is not None:
        lines.append(f"anisotropy of the last block without its outliers {stream['anisotropy_without']:.3f}")
    lines += [
        f"codes: {own['dead']} of {own['codes']} dead over {own['tokens']:,} tokens, perplexity {own['perplexity']:.1f}"
        for own in stream["codes"]
    ]
    if output := stream["output"]:
        lines.append(
            f"output: {output['classes']} classes from width {output['width']}, evenness {output['evenness']:.3f}, "
            f"rank of the logits of {output['tokens']} tokens {output['logit_rank']}"
        )
    counts = ", ".join(f"{stream['tokens'][group]:,} {group}" for group in GROUPS)
    heading = element("h3", f"{stream['stream']} ", element("small", f"width {stream['width']}; tokens: {counts}"))
    charts = element("div", *_charts(stream, name), class_="charts pair")
    said = [note("; ".join(lines), ".")] if lines else []
    return [heading, charts, table(head, rows, numbers=range(len(head) - 1)), *said]


def _charts(stream: Mapping[str, Any], name: str) -> list[Html]:
    """Against blocks, where there are several."""
    blocks = stream["blocks"]
    if len(blocks) < 2:
        return []
    ranks = {group: _curve(blocks, lambda own, group=group: own["effective_rank"][group]) for group in GROUPS}
    cosines = {
        "alike in a row": _curve(blocks, lambda own: own["alike"]),
        "anisotropy": _curve(blocks, lambda own: own["anisotropy"]),
    }
    made = []
    for title, curves in (("effective rank, by block", ranks), ("mean cosines, by block", cosines)):
        curves = {key: own for key, own in curves.items() if len(own.steps)}
        if not curves:
            continue
        keys = [element("span", key, class_=f"key {series_class(n)}") for n, key in enumerate(curves)]
        drawing = line_chart(curves, name=f"{stream['stream']}: {title}, {name}", zero=title.startswith("effective"))
        made.append(element("figure", element("figcaption", f"{stream['stream']}: {title} ", join(keys, " ")), drawing))
    return made


def _curve(blocks: Any, figure: Any) -> Curve:
    having = [own for own in blocks if figure(own) is not None]
    return Curve(np.array([float(own["block"]) for own in having]), np.array([float(figure(own)) for own in having]))


def _experts(experts: Any) -> Html:
    rows = [
        [
            own["block"],
            ", ".join(map(str, own["dead"])) or "none",
            f"{own['effective']:.1f} of {len(own['loads'])}",
            " ".join(f"{load:.2f}" for load in own["loads"]),
            *["; ".join(f"{name} {' '.join(f'{x:.2f}' for x in loads)}" for name, loads in own["by_stream"].items())],
        ]
        for own in experts
    ]
    return table(["block", "dead experts", "effective number", "loads, 1 is a fair share", "by stream"], rows)


def _told(value: float | int | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
