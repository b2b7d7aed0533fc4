"""Missing laboratory values filled in: a pretrained run beside the column mean and scikit-learn's IterativeImputer.

    python benchmarks/imputation.py RUN SHARDS

Of the observed cells of the test split a share is hidden, the same for all sides, and filled in from the rest of its
row. RMSE is over the hidden numbers in standard deviations of their columns, as the shards' statistics give mean,
deviation and clipping; `right` is the share of hidden categories that are met. The peers learn from the training split:

- column mean: mean and commonest category of the observed cells.
- IterativeImputer: Bayesian ridge regression of every column on all others in turn (scikit-learn's defaults); its
  categories are numbers, rounded.
"""

import argparse
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

from mmpt import randomness
from mmpt.data.manifest import load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.columns import labs_stream
from mmpt.downstream.imputation import impute
from mmpt.downstream.pretrained import load_pretrained
from mmpt.encoders.labs import Labs


class Score(NamedTuple):
    """Of one side."""

    rmse: float
    right: float


def read_grid(folder: Path, stream: str, split: str, labs: Labs) -> np.ndarray:
    """A split's tables as rows by columns, clipped as in training; NaN where a cell is missing."""
    manifest = load_manifest(folder)
    reader = Reader(manifest, [stream])
    rows = manifest.split_rows(split)
    rows = rows[manifest.column(f"{stream}.offset")[rows] >= 0]
    grid = np.full((len(rows), labs.limit), np.nan)
    for line, row in enumerate(rows.tolist()):
        cells = labs.read(reader.read(row)[stream], 0, labs.limit, None)
        column = cells[:, 0].astype(np.int64)
        grid[line, column] = labs.original(cells[:, 1].astype(np.float64), column)
    reader.close()
    return grid


def hide(grid: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which observed cells are hidden; the same for every side."""
    rows = torch.arange(len(grid))
    keys = randomness.fold(torch.full_like(rows, randomness.key(seed, "imputation")), rows)
    lot = randomness.uniform_rows(keys, grid.shape[1], "hidden cell").numpy()
    return (lot < share) & ~np.isnan(grid)


def score(labs: Labs, truth: np.ndarray, filled: np.ndarray, hidden: np.ndarray) -> Score:
    """Over the hidden cells."""
    categorical = np.array([bool(column.categories) for column in labs.columns])
    std = np.array([column.std for column in labs.columns])
    numbers, categories = hidden & ~categorical, hidden & categorical
    error = ((filled - truth) / std)[numbers]
    right = (filled.round() == truth)[categories]
    return Score(float(np.sqrt(np.mean(error**2))), float(right.mean()) if right.size else float("nan"))


def column_means(labs: Labs, training: np.ndarray) -> np.ndarray:
    """Mean, or the commonest category."""
    columns = zip(labs.columns, training.T, strict=True)
    return np.array(
        [
            np.bincount(values[~np.isnan(values)].astype(np.int64)).argmax()
            if column.categories
            else np.nanmean(values)
            for column, values in columns
        ]
    )


def compare(run: Path, shards: Path, *, share: float, seed: int, rounds: int) -> tuple[dict[str, Score], int]:
    """Every side's score, and how many cells were hidden."""
    pretrained = load_pretrained(run)
    stream, labs = labs_stream(pretrained.modalities)
    training, truth = (read_grid(shards, stream, split, labs) for split in ("train", "test"))
    hidden = hide(truth, share, seed)
    given = np.where(hidden, np.nan, truth)
    iterative = IterativeImputer(random_state=seed, max_iter=rounds, keep_empty_features=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        iterative.fit(training)
    sides = {
        "mmpt": impute(pretrained, given),
        "column mean": np.where(np.isnan(given), column_means(labs, training), given),
        "IterativeImputer": iterative.transform(given),
    }
    return {name: score(labs, truth, filled, hidden) for name, filled in sides.items()}, int(hidden.sum())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with a stream of laboratory tables and the target cells")
    parser.add_argument("shards", type=Path, help="data set with the same columns and a test split")
    parser.add_argument("--share", type=float, default=0.3, help="of the observed cells that is hidden")
    parser.add_argument("--seed", type=int, default=0, help="of what is hidden")
    parser.add_argument("--rounds", type=int, default=10, help="of IterativeImputer")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scores, count = compare(options.run, options.shards, share=options.share, seed=options.seed, rounds=options.rounds)
    table = Table(title=f"{count} cells of the test split, {options.share:.0%} of what was observed", min_width=64)
    for heading in ("", "RMSE", "right"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, own in scores.items():
        table.add_row(name, f"{own.rmse:.4f}", "-" if np.isnan(own.right) else f"{own.right:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
