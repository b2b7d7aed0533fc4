"""A recipe over the sample shards, run in a process of its own: what several benchmarks share."""

import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmpt.config import dump_yaml, load_settings
from mmpt.settings import Recipe

PREPARATION_SETTINGS = ["training.steps=200", "training.optimizer.warmup_steps=20"]  # of a run that another needs


def over_shards(recipe: Path, shards: Path, folder: Path, settings: Sequence[str]) -> Path:
    """The recipe with these settings over what 'mmpt samples' wrote.

    What its own command line does before the last command (codebooks, another run) is done in `folder`, once for all
    recipes that are written there.
    """
    done = folder / "done.txt"
    if not done.exists():
        (folder / "shards").mkdir()
        for data in shards.resolve().iterdir():
            (folder / "shards" / data.name).symlink_to(data)
        done.touch()
    for command in preparations(recipe):
        if shlex.join(command) not in done.read_text(encoding="utf-8").splitlines():
            run([*command, *(PREPARATION_SETTINGS if command[0] == "pretrain" else [])], folder, folder / "log.txt")
            with done.open("a", encoding="utf-8") as file:
                file.write(shlex.join(command) + "\n")
    text = re.sub(
        r"\b(?=(shards|units|runs)/)", f"{folder.resolve()}/", dump_yaml(load_settings(recipe, settings, Recipe))
    )
    file = folder / recipe.name
    file.write_text(text, encoding="utf-8")
    return file


def preparations(recipe: Path) -> list[list[str]]:
    """What stands between the sample shards and the last command in the second line of a recipe."""
    line = recipe.read_text(encoding="utf-8").splitlines()[1].lstrip("# ")
    first, *between, _ = [shlex.split(command) for command in line.split("&&")]
    if first != ["mmpt", "samples", "shards"] or not all(command[0] == "mmpt" for command in between):
        raise SystemExit(f"{recipe}:2: expected 'mmpt samples shards && mmpt ...', got '{line}'")
    return [command[1:] for command in between]


def pretrain(file: Path, run_folder: Path) -> float:
    """One thread; returns the peak of its memory in MB."""
    return run(["pretrain", str(file), "--out", str(run_folder)], file.parent, run_folder.with_suffix(".txt"))


def run(command: Sequence[str], folder: Path, log: Path) -> float:
    """`mmpt ...` on one thread; returns the peak of its memory in MB."""
    with log.open("wb") as said:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        line = [sys.executable, "-m", "mmpt", *command]
        process = subprocess.Popen(line, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _peak_of(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(log.read_text(encoding="utf-8"))
    return peak


def _peak_of(process: int) -> float:
    """MB so far, as Linux counts it; what a parent is told at the end would count the parent's own pages, too."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.nan if sys.platform != "linux" else 0.0
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:")), 0.0)
