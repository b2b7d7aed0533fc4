"""The model card beside an export: what it is, of which data and recipe, how good, and what it is not for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt.build import count_parameters, pool_of
from mmpt.config import dump_yaml
from mmpt.downstream.encoder import Encoder
from mmpt.downstream.result import ENDINGS, RESULT, SCORE_NAMES, TASK
from mmpt.training.ledger import read_lines

LIBRARY = {"safetensors": "mmpt"}
LIMITS = """\
- Features of a self-supervised encoder; it has no output that means anything by itself.
- It knows what its training data showed. Check it on your own data, with groups (patients, speakers) kept apart.
- Nothing here is fit for medical use.
"""


def write_card(
    folder: Path,
    name: str,
    encoder: Encoder,
    run: Path,
    certificate: Mapping[str, Any],
    use: str,
    inputs: str = "",
    licence: str | None = None,
) -> None:
    """README.md; a licence that nobody gives is told to be missing: it follows from the data's, which has none here."""
    streams = list(certificate["differences"])
    text = f"""---
library_name: {LIBRARY.get(certificate["to"], certificate["to"])}
pipeline_tag: feature-extraction
tags: [{", ".join(["mmpt", "masked-modelling", *streams])}]{f"{chr(10)}license: {licence}" if licence else ""}
---

# {name}

{_came(encoder, run)}

    {use.format(folder=name)}

Exported to {certificate["to"]}; latents differ from the original's by at most {certificate["largest_difference"]:.2g}
(`certificate.json`). {_shape(encoder, streams)}

{_section("Inputs and outputs", inputs)}## Data

{_data(encoder, streams)}

{_licence(licence)}

## Training

{_losses(run, streams)}

{_section("Scores of the task", _task_scores(run))}## Scores of frozen features

{_listed(_probes(run, streams), "none was made with `mmpt probe`")}

## Limits

{LIMITS}{_pool(encoder, certificate["to"])}
## Recipe

```yaml
{dump_yaml(encoder.recipe)}```
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _came(encoder: Encoder, run: Path) -> str:
    if encoder.origin is not None:
        return f"The encoder of {encoder.origin.source}, a {encoder.origin.kind}, as mmpt loaded it."
    if (run / TASK).exists():
        task = json.loads((run / TASK).read_text(encoding="utf-8"))
        name, label = task["type"].rpartition(".")[2], task["settings"].get("label")
        return f"An encoder fine-tuned with mmpt by a {name}{f' of `{label}`' if label else ''}; its head is left out."
    return f"An encoder pretrained with mmpt, {encoder.step} steps."


def _pool(encoder: Encoder, to: str) -> str:
    """A limit where weights of the run's own pool stay behind."""
    part = pool_of(encoder.recipe)
    if part is None or encoder.own is None or not encoder.own.state_dict() or to == "safetensors":
        return ""
    return (
        f"- A sample's vector was trained with the pool `{part.name}`, which is left out here: these latents' mean "
        "is not\n  what was trained. `mmpt embed` and `mmpt export --to safetensors` have it.\n"
    )


def _licence(licence: str | None) -> str:
    given = f"These weights are given under {licence}" if licence else "None is given here (`--licence` names one)"
    return f"The licence of weights follows that of the data and of whoever trained them. {given}."


def _task_scores(run: Path) -> str:
    """Of a fine-tuned run: each metric beside the score of one who never looks at a sample."""
    file = run / RESULT
    if not file.exists():
        return ""
    found = json.loads(file.read_text(encoding="utf-8"))
    lines = []
    for purpose, scores, trivial in (("validation", "metrics", "trivial"), ("test", "test", "trivial_test")):
        for name, score in found[scores].items():
            told = f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
            lines.append(f"- {name}, {purpose}: {told}; a guess has {found[trivial][name]:.3f}")
    return "\n".join([*lines, ""])


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}\n" if text else ""


def _listed(lines: Sequence[str], otherwise: str) -> str:
    return "\n".join(lines) or otherwise


def _shape(encoder: Encoder, streams: Sequence[str]) -> str:
    trunk = encoder.backbone.trunk
    parts = [trunk, *(encoder.backbone.encoders[name] for name in streams)]
    millions = count_parameters(parts) / 1e6
    return f"{millions:,.2f} million parameters, {trunk.depth} blocks, latents of {trunk.width} numbers a token."


def _data(encoder: Encoder, streams: Sequence[str]) -> str:
    """What the streams saw, and by which sources: what comes along with a stream shapes it, too."""
    fields = [f"- `{name}`: {_told(encoder.modalities[name].facts.statistics)}" for name in streams]
    sources = [
        f"- source `{name}`: split {source.split} of `{source.shards.name}`, {' + '.join(source.streams)}"
        for name, source in encoder.recipe.data.sources.items()
        if len(streams) > 1 or set(streams) & set(source.streams)
    ]
    return "\n".join([*fields, *sources])


def _told(statistics: Mapping[str, Any]) -> str:
    samples = statistics.get("samples")
    return f"{samples:,} samples" if samples is not None else "no statistics"


def _losses(run: Path, streams: Sequence[str]) -> str:
    """The last ones that were written down."""
    last: dict[str, str] = {}
    for line in read_lines(run / "metrics.jsonl"):
        for name in streams:
            if f"{name}/loss" in line:
                last[name] = f"- `{name}`: loss {line[f'{name}/loss']:.4g} of training batches, {line['done']} steps"
    return _listed(list(last.values()), "no figures were kept")


def _probes(run: Path, streams: Sequence[str]) -> list[str]:
    """Those of features of exported streams alone."""
    lines = []
    for file in sorted(run.glob("probe-*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not set(found["streams"]) <= set(streams) or found.get("kind", "linear") != "linear":
            continue
        for row in found["rows"]:
            score = row["linear" + ENDINGS[found["score"]]]
            told = f"{SCORE_NAMES[found['score']]} {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
            lines.append(f"- {found['label']} of {Path(found['data']).name}, {row['name']}: {told}")
    return lines
