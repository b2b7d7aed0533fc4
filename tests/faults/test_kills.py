"""Real SIGKILLs at random moments, saves among them: the final weights are those of an undisturbed run."""

import hashlib

import pytest
from running import kill_at_random, mmpt, write_recipe

STEPS = 40


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
    run = tmp_path / "killed"
    command = ("pretrain", recipe, "--out", run, *settings)
    kill_at_random(run, STEPS, *command, kills=6, seed=7, within=0.15)
    last = mmpt(*command)
    assert last.returncode == 0, last.stderr
    assert digest(run) == digest(tmp_path / "straight")
    assert not list((run / "checkpoints").glob(".*"))
