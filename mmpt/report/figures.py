"""Drawn figures: curves as SVG that takes the page's colours, pictures as PNG or JPEG."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image as Picture

from mmpt.report.markup import Html, element, escape, picture

POINTS = 400  # of a curve at most; more would only make the page heavy
SMOOTHED_FROM = 60  # points; from here on a running mean is drawn over the pale curve
LOG_FROM = 100.0  # largest over smallest
LOSSLESS_SIDE, LARGEST_SIDE = 96, 192  # pixels
INK, RULE = "#010101", "#020202"  # stand-ins that become the page's colours
SERIES = tuple(f"#0{n}0{n}0{n}" for n in range(3, 9))


class Curve(NamedTuple):
    """A figure over steps."""

    steps: Float[np.ndarray, " points"]
    values: Float[np.ndarray, " points"]


class Band(NamedTuple):
    """A score over shares of something, with its interval."""

    shares: Float[np.ndarray, " points"]
    values: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]


def series_class(number: int) -> str:
    """The style of the n-th curve's colour, for legends."""
    return f"series-{number % len(SERIES) + 1}"


def line_chart(
    curves: Mapping[str, Curve], *, name: str, percent: bool = False, smooth: bool = False, zero: bool = False
) -> Html:
    """Curves over steps; `name` says what they are to those who can't see them, `zero` begins the axis there."""
    figure = Figure(figsize=(3.9, 1.9))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.14, right=0.98, top=0.96, bottom=0.13)
    for number, curve in enumerate(curves.values()):
        _draw(axes, thinned(curve), SERIES[number % len(SERIES)], smooth)
    _style(axes, [curve.values for curve in curves.values()], percent=percent, zero=zero)
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), name)


def share_chart(bands: Mapping[str, Band], *, name: str) -> Html:
    """Scores over shares on a logarithmic axis, their intervals as whiskers set apart a little; see `line_chart`."""
    figure = Figure(figsize=(3.9, 2.3))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.14, right=0.98, top=0.96, bottom=0.13)
    axes.set_xscale("log")
    for number, band in enumerate(bands.values()):
        colour = SERIES[number % len(SERIES)]
        places = band.shares * 1.03 ** (number - (len(bands) - 1) / 2)
        axes.vlines(places, band.low, band.high, color=colour, linewidth=1.0, alpha=0.6)
        axes.plot(places, band.values, color=colour, linewidth=1.2, marker="o", markersize=3)
    _style(axes, [np.concatenate(band[1:]) for band in bands.values()], percent=True, zero=False)
    ticks = next(iter(bands.values())).shares.tolist()
    axes.set_xticks(ticks, [f"{100 * share:g} %" for share in ticks])
    axes.minorticks_off()
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), name)


def _draw(axes: Axes, curve: Curve, colour: str, smooth: bool) -> None:
    alone = "." if np.isfinite(curve.values).sum() == 1 else None
    over = smooth and len(curve.values) >= SMOOTHED_FROM
    axes.plot(*curve, color=colour, linewidth=1.2, alpha=0.3 if over else 1.0, marker=alone)
    if over:
        axes.plot(curve.steps, running_mean(curve.values, len(curve.values) // 30 * 2 + 1), color=colour, linewidth=1.4)


def _style(axes: Axes, values: Sequence[Float[np.ndarray, "..."]], *, percent: bool, zero: bool) -> None:
    finite = np.concatenate([v[np.isfinite(v)] for v in values] or [np.empty(0)])
    positive = len(finite) > 0 and finite.min() > 0
    if positive and not percent and not zero and finite.max() / finite.min() > LOG_FROM:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    if zero and len(finite):
        axes.set_ylim(0, max(finite.max() * 1.08, 1e-9))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0, pad=4)
    axes.tick_params(which="minor", labelleft=False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)


def thinned(curve: Curve) -> Curve:
    """At most POINTS points, each the mean of neighbours."""
    if len(curve.values) <= POINTS:
        return curve
    parts = [np.array_split(column, POINTS) for column in curve]
    return Curve(*(np.array([_mean(part) for part in column]) for column in parts))


def running_mean(values: Float[np.ndarray, " points"], window: int) -> Float[np.ndarray, " points"]:
    """Of the finite values in a window about each point."""
    reach = window // 2
    return np.array([_mean(values[max(n - reach, 0) : n + reach + 1]) for n in range(len(values))])


def _mean(values: Float[np.ndarray, " few"]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _inline(svg: str, name: str) -> Html:
    """An SVG document -> an element of the page: its colours, ids of its own, nothing but the drawing."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    size = re.search(r'viewBox="[^"]*"', body)
    label = f'role="img" aria-label="{escape(name)}"'
    body = re.sub(r"<svg[^>]*>", f"<svg {size[0] if size else ''} {label}>", body, count=1)
    for stand_in, colour in ((INK, "muted"), (RULE, "rule"), *((c, series_class(n)) for n, c in enumerate(SERIES))):
        body = body.replace(stand_in, f"var(--{colour})")
    slug = re.sub(r"\W+", "-", name)
    referenced = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body))
    kept = {one or other: f"{slug}-{number}" for number, (one, other) in enumerate(sorted(referenced))}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{kept[m[1]]}"' if m[1] in kept else "", body)
    body = re.sub(r'href="#([^"]+)"', lambda m: f'href="#{kept[m[1]]}"', body)
    body = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{kept[m[1]]})", body)
    return Html(re.sub(r"\s*\n\s*", "\n", body))


def encode_picture(pixels: UInt8[np.ndarray, "H W 3"]) -> tuple[bytes, str]:
    """Small pictures losslessly, larger ones no larger than the page shows them; bytes and kind."""
    image = Picture.fromarray(pixels)
    lossless = max(image.size) <= LOSSLESS_SIDE
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    if lossless:
        image.save(file, "png", optimize=True)
        return file.getvalue(), "png"
    image.save(file, "jpeg", quality=90, subsampling=0)
    return file.getvalue(), "jpeg"


def titled_pictures(pictures: Mapping[str, UInt8[np.ndarray, "H W 3"]], name: str, *, class_: str) -> Html:
    """An element of the page with each picture above its title; `name` is said to those who can't see them."""
    figures = [
        element("figure", picture(*encode_picture(pixels), f"{name}: {title}"), element("figcaption", title))
        for title, pixels in pictures.items()
    ]
    return element("div", *figures, class_=class_)


def draw_titled(pictures: Mapping[str, UInt8[np.ndarray, "H W 3"]], places: Iterable[Axes]) -> None:
    """The same on axes of matplotlib."""
    for axes, (title, pixels) in zip(places, pictures.items(), strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()


def picture_sheet(rows: Mapping[str, Sequence[UInt8[np.ndarray, "H W 3"]]]) -> bytes:
    """Rows of pictures with a name before each, on white; PNG."""
    columns = max(len(row) for row in rows.values())
    figure = Figure(figsize=(0.95 + 1.05 * columns, 1.05 * len(rows)), facecolor="white")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    left = 0.95 / figure.get_figwidth()
    figure.subplots_adjust(left=left, right=0.995, top=0.99, bottom=0.01, wspace=0.05, hspace=0.05)
    for axes, name in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10, labelpad=8)
    for line, pictures in zip(grid, rows.values(), strict=True):
        for axes in line:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, pixels in zip(line, pictures, strict=False):
            axes.imshow(pixels, interpolation="nearest")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
