"""Predictions as a table, one row a sample."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmpt.downstream.tables import check_table
from mmpt.finetune.evaluate import said_of
from mmpt.finetune.row_task import RowTask
from mmpt.finetune.saved import load


def write_predictions(task_folder: str | Path, data: str | Path, out: Path) -> int:
    """Write `key`, `prediction` and a column for each score of a sample; returns how many samples there were.

    What is said of words, frames or pixels is a list, as JSON in a .csv file.

    Raises:
        DataError: a file that is there or of another kind, or samples that can't be read; nothing is written then.
    """
    check_table(out, ".csv", ".parquet")
    task = load(task_folder)
    examples = task.examples(data, split="test", labelled=False)
    scores = said_of(task, examples, batch_size=64)
    said = [_plain(own) for own in task.decode(scores)]
    table = pd.DataFrame({"key": examples.names, "prediction": said})
    if all(own is None or isinstance(own, int) for own in said):
        table["prediction"] = pd.array(said, dtype="Int64")  # whole numbers stay whole beside what is missing
    names = task.facts.get("classes") or task.facts.get("names")
    if names and isinstance(task, RowTask):
        table = table.join(pd.DataFrame(np.stack(scores), columns=[f"score of {name}" for name in names]))
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".{out.name}.staged")
    if out.suffix == ".csv":
        table["prediction"] = [json.dumps(own) if isinstance(own, list) else own for own in table["prediction"]]
        table.to_csv(staged, index=False)
    else:
        table.to_parquet(staged, index=False)
    staged.replace(out)
    return len(table)


def _plain(said: Any) -> Any:
    """As tables hold it."""
    return said.tolist() if isinstance(said, np.ndarray) else said
