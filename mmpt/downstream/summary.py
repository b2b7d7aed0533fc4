"""All probes of a run in one table: what pretraining brought, modality by modality."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mmpt.downstream.result import ENDINGS, KINDS, SCORE_NAMES

OWN = ("pretrained", "untrained", "commonest class")


def summary(run: Path) -> Table | None:
    """A row a probe, by the score that it was made with; None where there is no probe yet."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(run.glob("probe-*.json"))]
    if not found:
        return None
    table = Table(title=Text(f"{run}: probes of frozen features, on test; linear where nothing else is said"))
    for name in ("streams: label", "score", "pretrained", "untrained", "gain, 95 %", "classical", "commonest"):
        table.add_column(name)
    for probe in found:
        table.add_row(*(Text(cell) for cell in _row(probe)))
    return table


def _row(probe: Mapping[str, Any]) -> list[str]:
    kind, ending = probe.get("kind", "linear"), ENDINGS[probe["score"]]
    # classical features have no tokens: beside an attentive probe they have the linear one
    scores = {row["name"]: (row.get(f"{kind}{ending}") or row[f"linear{ending}"])["value"] for row in probe["rows"]}
    classical = [f"{value:.3f} {name}" for name, value in scores.items() if name not in OWN]
    gain = probe["gain"]
    return [
        f"{' + '.join(probe['streams'])}: {probe['label']} ({len(probe['classes'])})",
        SCORE_NAMES[probe["score"]] if kind == "linear" else f"{KINDS[kind]},\n{SCORE_NAMES[probe['score']]}",
        f"{scores['pretrained']:.3f}",
        f"{scores['untrained']:.3f}" if "untrained" in scores else "-",
        f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})" if gain else "-",
        "\n".join(classical) or "-",
        f"{scores['commonest class']:.3f}",
    ]
