"""How training went: headline figures and curves from metrics.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmpt.report.figures import SMOOTHED_FROM, Curve, line_chart, series_class
from mmpt.report.markup import Html, duration, element, join, note, section, short
from mmpt.settings import Recipe
from mmpt.training import checkpoint

LOSS = "/loss"
KNOWN = {
    "learning_rate",
    "gradient_norm",
    "skipped_updates",
    "bad_samples",
    "samples_per_second",
    "tokens_per_second",
    "seconds_per_step",
    "padding_share",
    "data_wait_share",
}

Lines = Sequence[Mapping[str, Any]]


class Joint(NamedTuple):
    """Figures that say more in one chart; `{}` stands for a stream's name.

    In the title it makes a chart of each stream, in the parts alone a curve of each.
    """

    title: str
    parts: Mapping[str, str]  # by what the legend calls them
    percent: bool = False


JOINT = (
    Joint(
        "experts: load, 1 is a fair share",
        {"most": "experts/load_max", "least": "experts/load_min", "most of {}": "experts/{}/load_max"},
    ),
    Joint("experts: choices that found no place", {"all": "experts/dropped", "{}": "experts/{}/dropped"}, percent=True),
    Joint(
        "experts: entropy of the gate, 1 if all are as likely",
        {"all": "experts/entropy", "{}": "experts/{}/entropy"},
    ),
    Joint("experts: balance loss, 1 if even", {"": "experts/balance"}),
    Joint("experts: what they know of the stream, 1 if each is of one", {"": "experts/stream_information"}),
    Joint(
        "{}: spread over tokens, near 0 is collapse",
        {"latents": "{}/latent_std", "targets": "{}/target_std", "predictions": "{}/prediction_std"},
    ),
    Joint("{}: rank correlation with the true losses", {"predictor": "{}/spearman", "teacher": "{}/teacher_spearman"}),
    Joint(
        "{}: hardest tokens that the teacher found",
        {"teacher": "{}/hard_overlap", "by chance": "{}/hard_overlap_by_chance"},
        percent=True,
    ),
)


def curve(lines: Lines, name: str) -> Curve:
    """The lines that have this figure."""
    having = [line for line in lines if name in line]
    steps = np.array([float(line["done"]) for line in having])
    return Curve(steps, np.array([float(line[name]) for line in having]))


def loss_names(lines: Lines) -> list[str]:
    """Of the losses that any line has, in order of appearance."""
    return list(dict.fromkeys(name for line in lines for name in line if name.endswith(LOSS)))


def joint_charts(streams: Sequence[str]) -> list[Joint]:
    """Those of the run as a whole, then those of each stream."""
    whole, own = ([joint for joint in JOINT if ("{}" in joint.title) == wanted] for wanted in (False, True))
    filled = [
        Joint(title.format(stream), _parts(parts, [stream]), percent)
        for stream in streams
        for title, parts, percent in own
    ]
    return [Joint(title, _parts(parts, streams), percent) for title, parts, percent in whole] + filled


def _parts(parts: Mapping[str, str], streams: Sequence[str]) -> dict[str, str]:
    return {key.format(stream): name.format(stream) for key, name in parts.items() for stream in streams}


def probe_charts(recipe: Recipe) -> list[Joint]:
    """Of the probes while the run went."""
    return [
        Joint(
            f"probe {name}: {own.label}, {own.kind} {own.score}, split {own.splits[1]}",
            {
                "score": f"probe/{name}/{own.score}",
                "95 % from": f"probe/{name}/low",
                "to": f"probe/{name}/high",
                "commonest class": f"probe/{name}/commonest",
            },
            percent=True,
        )
        for name, own in recipe.training.probes.items()
    ]


def headline(run: Path, recipe: Recipe, lines: Lines) -> Html:
    """Name, state and the figures one asks for first."""
    steps = recipe.training.steps
    saved = max(checkpoint.steps_in(run / "checkpoints"), default=0)
    done = max(saved, int(lines[-1]["done"]) if lines else 0)
    complete = saved == steps
    state = "complete" if complete else f"stopped at step {done:,}" if done else "no step yet"
    badge = element("span", state, class_="badge good" if complete else "badge")
    tiles = [("steps", f"{done:,} of {steps:,}"), *_losses(lines), *_totals(lines)]
    shown = [element("div", element("dt", name), element("dd", value)) for name, value in tiles]
    streams = ", ".join(f"{name} ({part.name})" for name, part in recipe.streams.items())
    line = f"{recipe.objective.name} over {streams}; {recipe.trunk.name} trunk; batches of {recipe.data.batch_size}"
    title = element("h1", run.resolve().name, " ", badge)
    return element("header", title, element("p", line, class_="lead"), element("dl", *shown, class_="tiles"))


def _losses(lines: Lines) -> list[tuple[str, str]]:
    found = [(name, curve(lines, name).values[-1]) for name in loss_names(lines)]
    return [(f"final loss, {name.removesuffix(LOSS)}", f"{value:.4g}") for name, value in found]


def _totals(lines: Lines) -> list[tuple[str, str]]:
    """Measured rates times the time that they were measured over."""
    timed = [line for line in lines if "seconds_per_step" in line]
    if not timed:
        return []
    steps = np.diff([0, *(line["done"] for line in timed)])
    seconds = steps * np.array([line["seconds_per_step"] for line in timed])
    samples, tokens = (
        float(seconds @ np.array([line[f"{unit}_per_second"] for line in timed])) for unit in ("samples", "tokens")
    )
    whole = max(float(seconds.sum()), 1e-9)
    return [
        ("samples seen", short(samples)),
        ("tokens seen", short(tokens)),
        ("training time", duration(whole)),
        ("samples/s", short(samples / whole)),
        ("tokens/s", short(tokens / whole)),
    ]


def curves_section(recipe: Recipe, lines: Lines) -> Html:
    """All charts, or a sentence where there are no lines."""
    if not lines:
        return section("Training", note("There is no metrics.jsonl with figures yet."))
    every = recipe.training.log_every
    sources = len(recipe.data.sources)
    of_sources = f", over all {sources} sources together" if sources > 1 and every > 1 else ""
    charts = [chart(f"loss: {name.removesuffix(LOSS)}", _by_source(lines, name, every)) for name in loss_names(lines)]
    charts += [
        chart("learning rate", {"": curve(lines, "learning_rate")}, zero=True),
        chart("gradient norm, before clipping", {"": curve(lines, "gradient_norm")}),
        chart("samples a second", {"": curve(lines, "samples_per_second")}, zero=True),
        chart("tokens a second", {"": curve(lines, "tokens_per_second")}, zero=True),
        chart("share of the time spent waiting for data", {"": curve(lines, "data_wait_share")}, percent=True),
        chart("share of padding among places", {"": curve(lines, "padding_share")}, percent=True),
    ]
    joint = joint_charts(list(recipe.streams)) + probe_charts(recipe)
    for title, parts, percent in joint:
        charts.append(chart(title, {own: curve(lines, name) for own, name in parts.items()}, percent=percent))
    shown = (
        KNOWN
        | {*loss_names(lines), "step", "done", "source", "experts"}
        | {name for one in joint for name in one.parts.values()}
    )
    others = dict.fromkeys(name for line in lines for name in line if name not in shown)
    charts += [chart(name, {"": curve(lines, name)}) for name in others]
    points = "is of one step" if every == 1 else f"is the mean of {every} steps"
    pale = " Where a loss curve is pale, the dark one is its running mean." if len(lines) >= SMOOTHED_FROM else ""
    first = note(f"Against optimiser steps; a point of loss, throughput or share {points}{of_sources}.{pale}")
    return section("Training", first, element("div", *charts, class_="charts"))


def _by_source(lines: Lines, name: str, log_every: int) -> dict[str, Curve]:
    """A line of several steps mixes their sources, so only lines of single steps can be told apart."""
    sources = list(dict.fromkeys(str(line["source"]) for line in lines if name in line))
    if log_every > 1 or len(sources) < 2:
        return {"": curve(lines, name)}
    return {source: curve([line for line in lines if line["source"] == source], name) for source in sources}


def chart(title: str, curves: Mapping[str, Curve], *, percent: bool = False, zero: bool = False) -> Html:
    """A figure with its legend; nothing where no curve has a point."""
    curves = {name: own for name, own in curves.items() if len(own.steps)}
    if not curves:
        return Html("")
    legend = join(
        [element("span", name, class_=f"key {series_class(n)}") for n, name in enumerate(curves) if len(curves) > 1],
        " ",
    )
    smooth = title.startswith("loss")
    drawing = line_chart(curves, name=title, percent=percent, zero=zero or percent, smooth=smooth)
    return element("figure", element("figcaption", title, " ", legend), drawing)
