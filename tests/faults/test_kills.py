"""Real SIGKILLs at random moments, saves among them: the final weights are those of an undisturbed run."""

import hashlib
import random
import time

import pytest
from running import kill_group, mmpt, start, write_recipe

KILLS, STEPS = 6, 40


def digest(run):
    folder = run / "checkpoints" / f"step-{STEPS:09d}"
    return [
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "optimizer.safetensors")
    ]


@pytest.mark.slow
def test_six_kills_at_random_moments_change_not_a_byte(tmp_path, shards):
    recipe = write_recipe(tmp_path, shards)
    settings = (f"training.steps={STEPS}", "training.save_every=1", "training.keep_last=2", "data.workers=1")
    straight = mmpt("pretrain", recipe, "--out", tmp_path / "straight", *settings)
    assert straight.returncode == 0, straight.stderr
    moments, run, kills = random.Random(7), tmp_path / "killed", 0
    while kills < KILLS:
        process = start("pretrain", recipe, "--out", run, *settings)
        assert process.stdout is not None
        first = process.stdout.readline()  # DeepSpeed's start-up is over; from here on there are steps and saves
        assert "step" in first, first + process.stdout.read()
        time.sleep(moments.uniform(0.0, 0.15))
        if process.poll() is not None:
            break
        kill_group(process)
        kills += 1
    assert kills == KILLS, f"the run was over after {kills} kills: make it longer"
    last = mmpt("pretrain", recipe, "--out", run, *settings)
    assert last.returncode == 0, last.stderr
    assert digest(run) == digest(tmp_path / "straight")
    assert not list((run / "checkpoints").glob(".*"))
