"""Which expert of which block worked for which stream, as the last line of metrics.jsonl has it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mmpt.report.markup import Html, element, note, section, table
from mmpt.training.expert_loads import fair

HOTTEST = 2.0  # fair shares from which on a cell is as dark as any


def experts_section(lines: Sequence[Mapping[str, Any]]) -> Html:
    """A table a block that routes; nothing where none does."""
    having = [line for line in lines if line.get("experts")]
    if not having:
        return Html("")
    last = having[-1]
    before = having[-2]["done"] if len(having) > 1 else 0
    first = note(
        f"Steps {before + 1:,} to {last['done']:,}. Load: 1 is a fair share of the stream's choices. Dropped: choices "
        "that found no place. Entropy: of the gate, 1 if all experts are as likely."
    )
    return section("Experts", first, *(_block(number, streams) for number, streams in last["experts"].items()))


def _block(number: str, streams: Mapping[str, Mapping[str, Any]]) -> Html:
    names, loads = list(streams), [np.array(own["load"]) for own in streams.values()]
    tokens = np.array([own["tokens"] for own in streams.values()], dtype=float)
    columns = [fair(tokens @ np.stack(loads)), *loads]
    rows: list[list[object]] = [[f"expert {n}", *map(_cell, row)] for n, row in enumerate(zip(*columns, strict=True))]
    for title, key in (("dropped", "dropped"), ("entropy of the gate", "entropy")):
        own = np.array([float(stream[key]) for stream in streams.values()])
        rows.append([title, *(f"{value:.3f}" for value in (_mean(own, tokens), *own))])
    heat = table(["", "all streams", *names], rows, numbers=range(1, len(columns) + 1))
    return element("div", element("h3", f"block {number}"), heat)


def _mean(values: Float[np.ndarray, " n"], tokens: Float[np.ndarray, " n"]) -> float:
    return float(values @ tokens / tokens.sum())


def _cell(load: float) -> Html:
    shade = min(load / HOTTEST, 1) * 100
    style = f"background:color-mix(in srgb, var(--series-1) {shade:.0f}%, transparent)"
    return element("span", f"{load:.2f}", class_="heat", style=style)
