"""Optimisers at equal budgets: one recipe, the same steps and the same learning rates for each rule.

    mmpt samples shards && python benchmarks/optimizers.py shards --steps 300

- loss: mean training loss over the last fifth of the steps. falls: from the first fifth's mean to it.
- probe: the recipe's own online probe after the last step, on the validation split; gain: over the untrained weights.
- steps/s: over the last fifth of the steps, one thread. MB: the peak of the training process.

A rule's best learning rate may lie outside of the grid; where the lowest loss stands at its edge, give it a wider one.
A few hundred steps on a small model and one seed say that a rule learns, not which is better at scale.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sample_runs import over_shards, pretrain

from mmpt.config import find_parts, load_settings
from mmpt.recipes import find_recipe
from mmpt.settings import OnlineProbeSettings, Recipe
from mmpt.training.ledger import read_lines
from mmpt.training.optimizers import Rule

COLUMNS = ("rule", "learning rate", "loss", "falls", "probe", "gain", "steps/s", "MB")


def main() -> None:
    """Train, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="what 'mmpt samples' wrote")
    parser.add_argument("--recipe", default="image_mae", help="with one objective")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rules", nargs="+", default=list(find_parts(Rule.__module__, Rule)))
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[1e-4, 3e-4, 1e-3, 3e-3])
    parser.add_argument("--set", nargs="*", default=[], metavar="A.B=VALUE", help="of the recipe, for all")
    arguments = parser.parse_args()
    console, table = Console(width=120), Table(*COLUMNS, title=f"{arguments.recipe}, {arguments.steps} steps")
    for rate in arguments.learning_rates:
        for rule in arguments.rules:
            with tempfile.TemporaryDirectory() as folder:
                row = (rule, f"{rate:g}", *row_of(rule, rate, arguments, Path(folder)))
            console.print("  ".join(row))  # a long benchmark that is stopped has said something
            table.add_row(*row)
    console.print(table)


def row_of(rule: str, rate: float, arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Loss, probe, speed and memory of one run."""
    recipe, steps = find_recipe(arguments.recipe), arguments.steps
    optimizer = "training.optimizer"
    settings = [f"training.steps={steps}", f"training.log_every={max(steps // 5, 1)}", "training.save_every=1000000"]
    settings += [f"{optimizer}.rule={rule}", f"{optimizer}.learning_rate={rate}"]
    settings += [f"{optimizer}.warmup_steps={steps // 10}", *arguments.set]
    probes = load_settings(recipe, [], Recipe).training.probes
    settings += [f"training.probes.{name}.every={steps}" for name in probes]
    memory = pretrain(over_shards(recipe, arguments.shards, folder, settings), folder / "run")
    lines = read_lines(folder / "run" / "metrics.jsonl")
    trained = [line for line in lines if "seconds_per_step" in line]
    first, last = (_loss(line) for line in (trained[0], trained[-1]))
    speed = 1 / trained[-1]["seconds_per_step"]
    return [f"{last:.4f}", f"{first - last:.4f}", *_probed(lines, probes), f"{speed:.2f}", f"{memory:.0f}"]


def _loss(line: dict[str, Any]) -> float:
    (loss,) = (value for name, value in line.items() if name.endswith("/loss"))
    return float(loss)


def _probed(lines: list[dict[str, Any]], probes: Mapping[str, OnlineProbeSettings]) -> tuple[str, str]:
    """The last score of the first probe and what it is above the first look's; of a recipe without probes nothing."""
    for name, probe in probes.items():
        scores = [line[key] for line in lines if (key := f"probe/{name}/{probe.score}") in line]
        return f"{scores[-1]:.3f}", f"{scores[-1] - scores[0]:+.3f}"
    return "", ""


if __name__ == "__main__":
    main()
