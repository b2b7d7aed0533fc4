"""A recipe over the sample shards, run in a process of its own: what several benchmarks share."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mmpt.config import dump_yaml, load_settings
from mmpt.data.codebook import save_codebook
from mmpt.data.manifest import load_manifest
from mmpt.downstream.units.features import MfccFeatures
from mmpt.downstream.units.fit import fit_codebook
from mmpt.settings import Recipe


def over_shards(recipe: Path, shards: Path, folder: Path, settings: Sequence[str]) -> Path:
    """The recipe with these settings over what 'mmpt samples' wrote; its MFCC codebook is made where it names one."""
    text = dump_yaml(load_settings(recipe, settings, Recipe)).replace("shards/", f"{shards.resolve()}/")
    if "units/mfcc.safetensors" in text:
        codebook = folder / "mfcc.safetensors"
        speech = shards / "speech"
        save_codebook(fit_codebook(MfccFeatures(load_manifest(speech), "speech"), speech, clusters=50), codebook)
        text = text.replace("units/mfcc.safetensors", str(codebook))
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def pretrain(file: Path, run: Path) -> float:
    """One thread; returns the peak of its memory in MB."""
    command = [sys.executable, "-m", "mmpt", "pretrain", str(file), "--out", str(run)]
    log = run.with_suffix(".txt")
    with log.open("wb") as said:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(log.read_text(encoding="utf-8"))
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
