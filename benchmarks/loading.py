"""How fast one loader process reads every recipe's data, and how long its training waits for it.

    mmpt samples shards && python benchmarks/loading.py shards

- loader: samples a second that one worker reads, checks, decodes and collates while nothing trains, from the first
  batch to the last.
- data-wait: share of a training run's time that it waits for its one worker, over the second half of the steps.
- padding: share of the places of those steps' batches that no token stands in.

On a machine with two cores the worker has one and training the other.
"""

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sample_runs import over_shards, pretrain

from mmpt.config import load_settings
from mmpt.data.batches import steps_from
from mmpt.recipes import recipes
from mmpt.settings import Recipe
from mmpt.training.command import build
from mmpt.training.ledger import read_lines

GOAL = 0.05


def main() -> None:
    """Measure every recipe that comes with mmpt, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="what 'mmpt samples' wrote")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--recipes", nargs="+", default=[recipe.name for recipe in recipes()])
    arguments = parser.parse_args()
    table = Table("recipe", "loader, samples/s", "training, samples/s", f"data-wait (goal {GOAL:.0%})", "padding")
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        for recipe in recipes():
            if recipe.name in arguments.recipes:
                file = over_shards(recipe.path, arguments.shards, Path(folder), settings_for(arguments.steps))
                row = (recipe.name, f"{loader_rate(file):,.0f}", *training(file, file.with_suffix("")))
                console.print(*row)
                table.add_row(*row)
    console.print(table)


def settings_for(steps: int) -> list[str]:
    """One worker, and a line of the log for each half."""
    return [
        "data.workers=1",
        f"training.steps={steps}",
        f"training.log_every={steps // 2}",
        "training.optimizer.warmup_steps=0",
        "training.probes={}",
    ]


def loader_rate(file: Path) -> float:
    """Samples a second of one worker alone."""
    built = build(load_settings(file, [], Recipe), 0, 1)
    counts, began = [], 0.0
    for step in steps_from(built.batches, 0, workers=1):
        began = began or time.perf_counter()
        counts.append(sum(len(micro.readable) for micro in step))
    return sum(counts[1:]) / (time.perf_counter() - began)


def training(file: Path, run: Path) -> tuple[str, str, str]:
    """Samples a second, and the shares of waiting and of padding, of a run of its own."""
    pretrain(file, run)
    last = read_lines(run / "metrics.jsonl")[-1]
    return f"{last['samples_per_second']:,.0f}", f"{last['data_wait_share']:.1%}", f"{last['padding_share']:.1%}"


if __name__ == "__main__":
    main()
