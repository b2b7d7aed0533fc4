"""data2vec as a user runs it: figures of collapse, exact going on, and a teacher that moves with the updates."""

import hashlib

import pytest
import torch
from running import kill_at_random, mmpt
from safetensors.torch import load_file

from mmpt.objectives.teacher import TeacherSettings
from mmpt.training.ledger import read_lines

STEPS = 12
TEACHER = "objective.teacher.average.backbone."
AVERAGE = TeacherSettings(start=0.8, end=0.95, rise=0.5)


@pytest.fixture(scope="module")
def recipe(run, tmp_path_factory):
    """The small recipe, latents predicted of text and pictures behind two masks; every checkpoint stays."""
    text = run[1].read_text(encoding="utf-8")
    latents = "target: {type: teacher_latents, layers: 2}"
    for before, after in (
        ("predictor: tied", "predictor: mlp"),
        ("target: token_ids", latents.replace("}", ", norm: layer, beta: 4}")),
        ("target: pixels", latents),
        ("  type: masked_prediction", "  type: masked_prediction\n  masks_per_sample: 2\n"
                                      "  teacher: {start: 0.8, end: 0.95, rise: 0.5}"),
        ("save_every: 4", "save_every: 1\n  keep_last: 100"),
    ):  # fmt: skip
        assert text.count(before) == 1
        text = text.replace(before, after)
    path = tmp_path_factory.mktemp("latents") / "latents.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def straight(recipe):
    """A finished run of one process."""
    done = mmpt("pretrain", recipe, "--out", recipe.parent / "straight")
    assert done.returncode == 0, done.stderr
    assert "image/target_std" in done.stdout
    assert "text/prediction_std" in done.stdout
    assert "text/latent_std" in done.stdout
    return recipe.parent / "straight"


def checkpoint(run, step):
    return load_file(run / "checkpoints" / f"step-{step:09d}" / "model.safetensors")


def test_the_teacher_follows_once_an_update_and_figures_are_written(straight):
    for step in (2, 7, STEPS):
        before, after = checkpoint(straight, step - 1), checkpoint(straight, step)
        momentum = AVERAGE.momentum((step - 1) / STEPS)
        names = [name for name in after if name.startswith(TEACHER) and not name.endswith((".mean", ".std"))]
        assert len(names) > 30
        for name in names:
            own = after[name.removeprefix("objective.teacher.average.")]
            torch.testing.assert_close(
                after[name], momentum * before[name] + (1 - momentum) * own, rtol=1e-5, atol=1e-7
            )
    figures = {name for line in read_lines(straight / "metrics.jsonl") for name in line}
    made = ("target", "prediction", "latent")
    assert {f"{stream}/{figure}_std" for stream in ("image", "text") for figure in made} <= figures


@pytest.mark.parametrize("stage", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_kill_changes_not_a_byte(recipe, straight, tmp_path, stage):
    settings = (f"deepspeed.zero_optimization.stage={stage}",) if stage else ()
    wanted, run = straight, tmp_path / "killed"
    if stage:
        wanted = tmp_path / "straight"
        assert mmpt("pretrain", recipe, "--out", wanted, *settings).returncode == 0
    command = ("pretrain", recipe, "--out", run, *settings)
    kill_at_random(run, STEPS, *command, kills=1, seed=stage, within=0.3)
    done = mmpt(*command)
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        mine, theirs = (r / "checkpoints" / f"step-{STEPS:09d}" / name for r in (run, wanted))
        assert hashlib.sha256(mine.read_bytes()).digest() == hashlib.sha256(theirs.read_bytes()).digest()


@pytest.mark.slow
def test_a_run_whose_targets_collapse_stops_with_a_sentence_where_it_is_told_to(recipe, tmp_path):
    settings = ["training.collapse=stop", "training.steps=60", "training.optimizer.weight_decay=50"]
    settings += ["objective.teacher.start=0", "objective.teacher.end=0"]
    settings += [f"objective.streams.{name}.target.norm=none" for name in ("image", "text")]
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", *settings)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "_std is 0.00" in done.stderr
    assert "the model collapses; lower training.optimizer.learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
