"""Every recipe at equal steps on the sample data: what its features know, how fast it trains, and what memory it takes.

    mmpt samples shards && python benchmarks/methods.py shards --steps 300

- probe: logistic regression on frozen features of one stream, with the 95 % interval over resampled groups; accuracy,
  for ECG macro-F1. gain: over the same encoder untrained, paired. A recipe has a row for each data set that it reads.
- steps/s: over the second half of the steps, one thread. MB: the peak of the training process.

Equal steps are not equal work: batches, lengths and data differ from recipe to recipe, so that rows of one data set
compare methods, and rows of different ones nothing. A few hundred steps on a few thousand samples say whether a method
learns at all, not which is better at scale.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sample_runs import over_shards, pretrain

from mmpt.config import load_settings
from mmpt.downstream.probe import probe
from mmpt.recipes import recipes
from mmpt.settings import Recipe
from mmpt.training.ledger import read_lines

COLUMNS = ("recipe", "stream", "probe", "gain", "steps/s", "MB")


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="what 'mmpt samples' wrote")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--recipes", nargs="+", default=[recipe.name for recipe in recipes()])
    parser.add_argument("--max-samples", type=int, default=4000, help="of a split, to probe with")
    arguments = parser.parse_args()
    table = Table(*COLUMNS, title=f"{arguments.steps} steps")
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        for recipe in recipes():
            for row in rows_of(recipe.path, arguments, Path(folder)) if recipe.name in arguments.recipes else ():
                console.print(recipe.name, *row)
                table.add_row(recipe.name, *row)
    console.print(table)


def rows_of(recipe: Path, arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, ...]]:
    """Stream, probe, gain, steps a second and memory."""
    steps = arguments.steps
    settings = [f"training.steps={steps}", f"training.log_every={max(steps // 2, 1)}", "training.save_every=1000000"]
    settings += [f"training.optimizer.warmup_steps={steps // 10}", "training.probes={}"]
    file = over_shards(recipe, arguments.shards, folder, settings)
    run = folder / file.stem
    memory = pretrain(file, run)
    seconds = read_lines(run / "metrics.jsonl")[-1]["seconds_per_step"]
    sources = load_settings(file, [], Recipe).data.sources.values()
    for stream, data in {source.streams[0]: source.shards for source in reversed(sources)}.items():
        if stream == "video":  # its sample has no labels
            yield stream, "-", "-", f"{1 / seconds:.1f}", f"{memory:.0f}"
            continue
        ecg = stream == "ecg"
        result = probe(
            run,
            data,
            label="label",
            streams=[stream],
            score="macro_f1" if ecg else "accuracy",
            skip_unlabelled=ecg,
            max_samples=arguments.max_samples,
        )
        scores = (str(result.rows[0].score("linear", result.score)), str(result.gain))
        yield stream, *scores, f"{1 / seconds:.1f}", f"{memory:.0f}"


if __name__ == "__main__":
    main()
