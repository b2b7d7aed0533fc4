"""Every fine-tuning strategy on the same labels: what it trains, what that costs, and what comes of it.

    make pretrain && python benchmarks/strategies.py runs/five shards/ecg --score macro_f1

Each strategy fits a classifier with its own learning rate for the same number of epochs; the validation split chooses
the epoch. Scores are of the test split, with the 95 % interval over resampled groups. Seconds are one thread's, of
training and validation together; trained is the share of all weights that may move. What goes on with a fitted task
goes on with that of `full`, whose seconds are not in its row.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.table import Table

import mmpt
from mmpt.config import Component, component
from mmpt.finetune import Classifier
from mmpt.finetune.strategies import Strategy

FOLDER = Path(mmpt.__file__).parent / "finetune" / "strategies"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def row_of(name: str, arguments: argparse.Namespace) -> list[str]:
    """Cells of the table."""
    stream = arguments.stream or arguments.data.name
    task = Classifier(mmpt.load(arguments.run), label=arguments.label, inputs=[stream])
    strategy: Component[Strategy] = component(Strategy, name)
    settings = {"test": arguments.data, "metric": arguments.score, "epochs": arguments.epochs}
    if cast("type[Strategy]", strategy.target).fitted:
        task.fit(arguments.data, strategy="full", **settings)
    began = time.process_time()
    result = task.fit(arguments.data, strategy=strategy, **settings)
    spent = time.process_time() - began
    score, guess = result.test[arguments.score], result.trivial_test[arguments.score]
    told = f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
    trained = f"{result.trained / result.parameters:.1%}"
    return [name, trained, f"{spent:.0f}", str(result.best_epoch), told, f"{guess:.3f}"]


def main(given: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="with the stream")
    parser.add_argument("data", type=Path, help="a data set with labels and splits")
    parser.add_argument("--stream", help="by default the name of the data set's folder")
    parser.add_argument("--label", default="label")
    parser.add_argument("--score", default="accuracy")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--strategies", nargs="+", default=NAMES, choices=NAMES)
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    console = Console(width=120)
    table = Table("strategy", "trained", "seconds", "best epoch", f"{arguments.score}, test", "a guess")
    for name in arguments.strategies:
        row = row_of(name, arguments)
        console.print(*row, sep="  ")
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
