"""What stands beside the curves: the ledger, sizes, recipe and environment."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt.build import parameter_counts
from mmpt.downstream.pretrained import Pretrained
from mmpt.report.markup import Html, details, element, join, note, section, table
from mmpt.training.ledger import read_lines

EXAMPLES = 3
SHOWN_UPDATES = 20


def ledger_section(run: Path) -> Html:
    """What was skipped, on any rank."""
    lines = [line for file in sorted(run.glob("ledger*.jsonl")) for line in read_lines(file)]
    samples = [line for line in lines if line.get("event") == "skipped sample"]
    updates = [line for line in lines if line.get("event") == "skipped update"]
    return section("Ledger", *_skipped_samples(samples), *_skipped_updates(updates))


def _skipped_samples(lines: Sequence[Mapping[str, Any]]) -> list[Html]:
    if not lines:
        return [note("No sample was skipped.")]
    reasons: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        reasons[kind_of(str(line["reason"]))].append(line)
    rows = [
        [kind, f"{len(own):,}", f"{len({(line['source'], line['key']) for line in own}):,}", _examples(own)]
        for kind, own in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    said = f"{len(lines):,} {'times' if len(lines) > 1 else 'time'} a sample could not be read and was skipped:"
    return [note(said), table(["reason", "times", "samples", "first examples"], rows, numbers=(1, 2))]


def _examples(lines: Sequence[Mapping[str, Any]]) -> Html:
    distinct = dict.fromkeys(str(line["reason"]) for line in lines)
    return join([element("div", reason) for reason in list(distinct)[:EXAMPLES]], "")


def kind_of(reason: str) -> str:
    """A reason without its place and its numbers."""
    said = re.sub(r"^.*?: sample .*?: (?=member )", "", reason)
    return re.sub(r"0x[0-9a-f]+|(?<![\w.-])\d+", "#", said)


def _skipped_updates(lines: Sequence[Mapping[str, Any]]) -> list[Html]:
    if not lines:
        return [note("No update was skipped.")]
    rows = [
        [
            f"{line['step']:,}",
            line["objective"] or "a gradient",
            ", ".join(map(str, line["uids"])),
            ", ".join(line["samples"]),
        ]
        for line in sorted(lines, key=lambda line: line["step"])[:SHOWN_UPDATES]
    ]
    steps = len({line["step"] for line in lines})
    more = f"; the first {SHOWN_UPDATES} entries" if len(lines) > SHOWN_UPDATES else ""
    said = f"{steps:,} update{'s were' if steps > 1 else ' was'} not finite and skipped{more}:"
    return [note(said), table(["step", "objective", "uids", "samples"], rows, numbers=(0,))]


def parameters_section(pretrained: Pretrained | str) -> Html:
    """Numbers of weights."""
    if isinstance(pretrained, str):
        return section("Parameters", note(f"The model can't be built: {pretrained}."))
    counts = parameter_counts(pretrained.model)
    rows = [[name, f"{count:,}", f"{count / max(counts['all'], 1):.1%}"] for name, count in counts.items()]
    return section("Parameters", table(["part", "parameters", "share"], rows, numbers=(1, 2)))


def record_section(run: Path) -> Html:
    """Recipe and environment."""
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    opened = details("recipe.yaml: resolved, complete", element("pre", recipe))
    return section("Recipe and environment", opened, _environment(run / "environment.json"))


def _environment(file: Path) -> Html:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return note("There is no readable environment.json yet.")
    rows = [[name, _plain(value)] for name, value in found.items()]
    return details("environment.json: versions and machine", table(["", ""], rows))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {own}" for name, own in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
