"""A checkpoint is one atomic commit: staged, hashed, fsynced, published by one rename.

A folder `step-000000100` holds `model.safetensors` (weights and buffers by name), `optimizer.safetensors` (moments by
parameter name, whole tensors whatever the ZeRO stage and the number of ranks were), `state.json` (step, updates,
counters) and `COMMIT.json` (sha256 of each). Nothing in it is pickled.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmpt.data.manifest import sha256_of
from mmpt.errors import CheckpointError

COMMIT = "COMMIT.json"


class Saved(NamedTuple):
    """What a checkpoint holds."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: dict[str, Any]


def commit(folder: Path, saved: Saved) -> Path:
    """Write a checkpoint of step `saved.state["step"]`; raises CheckpointError, and leaves no trace, if that fails."""
    step = saved.state["step"]
    final, staging = folder / f"step-{step:09d}", folder / f".staging-step-{step:09d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        save_file(saved.weights, staging / "model.safetensors")
        save_file(saved.moments, staging / "optimizer.safetensors")
        (staging / "state.json").write_text(json.dumps(saved.state, indent=1) + "\n", encoding="utf-8")
        hashes = {file.name: sha256_of(file) for file in sorted(staging.iterdir())}
        (staging / COMMIT).write_text(json.dumps({"step": step, "sha256": hashes}, indent=1) + "\n", encoding="utf-8")
        for file in staging.iterdir():
            _fsync(file)
        _fsync(staging)
        if final.exists():  # an earlier commit of the same step that no longer verifies
            _remove(final)
        staging.rename(final)
        _fsync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise CheckpointError(
            f"{final}: could not be saved ({error}); earlier checkpoints are untouched: make room and run the same "
            "command again"
        ) from error
    return final


def latest(folder: Path) -> Path | None:
    """The newest checkpoint whose hashes agree; a damaged one is passed over. None where there is none."""
    for step in sorted(steps_in(folder), reverse=True):
        candidate = folder / f"step-{step:09d}"
        if not problems(candidate):
            return candidate
    return None


def steps_in(folder: Path) -> list[int]:
    """Steps of the published checkpoints."""
    names = (path.name.removeprefix("step-") for path in folder.glob("step-*"))
    return sorted(int(name) for name in names if name.isdigit())


def problems(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, in words; empty where nothing is."""
    try:
        hashes = json.loads((checkpoint / COMMIT).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError) as error:
        return f"{checkpoint / COMMIT}: missing or unreadable ({error})"
    for name, expected in hashes.items():
        file = checkpoint / name
        if not file.exists():
            return f"{file}: missing"
        if sha256_of(file) != expected:
            return f"{file}: the contents differ from what was saved"
    return ""


def load(checkpoint: Path, *, moments: bool = True) -> Saved:
    """Read a checkpoint; raises CheckpointError naming the damaged file."""
    trouble = problems(checkpoint)
    if trouble:
        raise CheckpointError(f"{trouble}; choose an earlier checkpoint of {checkpoint.parent}")
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    weights = load_file(checkpoint / "model.safetensors")
    return Saved(weights, load_file(checkpoint / "optimizer.safetensors") if moments else {}, state)


def prune(folder: Path, *, keep_last: int, keep_every: int) -> None:
    """Remove what need not stay, and what a kill left half-written or half-removed."""
    steps = steps_in(folder)
    for step in steps[:-keep_last]:
        if not keep_every or step % keep_every:
            _remove(folder / f"step-{step:09d}")
    for leftover in (*folder.glob(".staging-*"), *folder.glob(".removed-*")):
        shutil.rmtree(leftover, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """By a rename first: a kill in mid-removal leaves nothing that looks like a checkpoint."""
    doomed = checkpoint.with_name(f".removed-{checkpoint.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
