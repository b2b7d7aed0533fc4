"""The model card beside an export: what it is, of which data and recipe, how good, and what it is not for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt.config import dump_yaml
from mmpt.downstream.encoder import Encoder

LIMITS = """\
- Features of a self-supervised encoder; it has no output that means anything by itself.
- It knows what its training data showed. Check it on your own data, with groups (patients, speakers) kept apart.
- Nothing here is fit for medical use.
"""


def write_card(folder: Path, name: str, encoder: Encoder, run: Path, certificate: Mapping[str, Any], use: str) -> None:
    """README.md; the licence is that of the data, which the card can't know and says so."""
    streams = list(certificate["differences"])
    probes = "\n".join(_probes(run, streams)) or "none was made with `mmpt probe`"
    told = {name: _told(encoder.modalities[name].facts.statistics) for name in streams}
    fields = "\n".join(f"- `{name}`: {sizes}" for name, sizes in told.items())
    text = f"""# {name}

{_came(encoder)}

    {use.format(folder=name)}

Exported to {certificate["to"]}; latents differ from the original's by at most {certificate["largest_difference"]:.2g}
(`certificate.json`).

## Data

{fields}

The licence of weights follows that of the data and of whoever trained them; none is given here.

## Scores of frozen features

{probes}

## Limits

{LIMITS}
## Recipe

```yaml
{dump_yaml(encoder.recipe)}```
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _came(encoder: Encoder) -> str:
    if encoder.origin is not None:
        return f"The encoder of {encoder.origin.source}, a {encoder.origin.kind}, as mmpt loaded it."
    return f"An encoder pretrained by masked modelling with mmpt, {encoder.step} steps."


def _told(statistics: Mapping[str, Any]) -> str:
    samples = statistics.get("samples")
    return f"{samples:,} samples" if samples is not None else "no statistics"


def _probes(run: Path, streams: Sequence[str]) -> list[str]:
    """Those of features of exported streams alone."""
    lines = []
    for file in sorted(run.glob("probe-*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not set(found["streams"]) <= set(streams) or found.get("kind", "linear") != "linear":
            continue
        for row in found["rows"]:
            score = row["linear"]
            told = f"accuracy {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
            lines.append(f"- {found['label']} of {Path(found['data']).name}, {row['name']}: {told}")
    return lines
