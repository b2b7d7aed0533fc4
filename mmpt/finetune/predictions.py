"""Predictions as a table, one row a sample."""

from pathlib import Path

import pandas as pd

from mmpt.errors import DataError
from mmpt.finetune.evaluate import outputs_of
from mmpt.finetune.examples import examples_of
from mmpt.finetune.saved import load

ENDINGS = (".csv", ".parquet")


def write_predictions(task_folder: str | Path, data: str | Path, out: Path) -> int:
    """Write `key`, `prediction` and a column for each score; returns how many samples there were.

    Raises:
        DataError: a file of another kind, or samples that can't be read; nothing is written then.
    """
    if out.suffix not in ENDINGS:
        raise DataError(f"{out}: expected a file that ends in {' or '.join(ENDINGS)}")
    task = load(task_folder)
    assert task.model is not None
    examples = examples_of(data, task.inputs, label=None, split="test")
    scores = task.scores(outputs_of(task, task.model, examples, batch_size=64))
    table = pd.DataFrame({"key": examples.names, "prediction": task.decode(scores)})
    names = task.facts.get("classes") or task.facts.get("names")
    if names:
        table = table.join(pd.DataFrame(scores, columns=[f"score of {name}" for name in names]))
    staged = out.with_name(f".{out.name}.staged")
    if out.suffix == ".csv":
        table.to_csv(staged, index=False)
    else:
        table.to_parquet(staged, index=False)
    staged.replace(out)
    return len(table)
