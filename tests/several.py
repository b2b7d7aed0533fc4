"""Runs one after the other in one process a rank, so that a test pays for the start-up once: a JSON list of jobs.

A job is a recipe, a run folder, overrides, and perhaps the run that it goes on from, as it was before its last save.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from mmpt.training.command import pretrain


def go_on_from(before: Path, run: Path) -> None:
    """Rank 0 copies all but the last checkpoint; the others wait for it."""
    ready = run.with_suffix(".ready")
    if os.environ.get("RANK", "0") == "0":
        shutil.copytree(before, run)
        shutil.rmtree(max((run / "checkpoints").iterdir()))
        ready.touch()
    while not ready.exists():
        time.sleep(0.01)


for recipe, run, overrides, before in json.loads(Path(sys.argv[-1]).read_text(encoding="utf-8")):
    if before:
        go_on_from(Path(before), Path(run))
    pretrain(recipe, *overrides, out=run)
