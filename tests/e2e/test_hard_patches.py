"""Hard patch mining as a user runs it: the averaged teacher moves with the updates, is saved, and goes on exactly."""

import hashlib

import pytest
import torch
from running import close, kill_at_random, mmpt, weights
from safetensors.torch import load_file

from mmpt.objectives.teacher import TeacherSettings
from mmpt.training.ledger import read_lines

STEPS = 12
TEACHER = "objective.teacher.average."
AVERAGE = TeacherSettings(start=0.8, end=0.95, rise=0.5)
GUIDED = """
      masking: {ratio: 0.75, importance: {type: predicted_loss, start: 0.2, end: 0.8}}
      loss_predictor: {predictor: {type: decoder, width: 16, depth: 1, heads: 2}}"""


@pytest.fixture(scope="module")
def recipe(run, tmp_path_factory):
    """The small recipe, its pictures guided; every checkpoint stays."""
    text = run[1].read_text(encoding="utf-8")
    plain = "\n      masking: {ratio: 0.75}"
    assert text.count(plain) == 1
    text = text.replace(plain, GUIDED).replace(
        "  type: masked_prediction", "  type: masked_prediction\n  teacher: {start: 0.8, end: 0.95, rise: 0.5}"
    )
    text = text.replace("save_every: 4", "save_every: 1\n  keep_last: 100")
    path = tmp_path_factory.mktemp("guided") / "guided.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def straight(recipe):
    """A finished run of one process."""
    folder = recipe.parent / "straight"
    done = mmpt("pretrain", recipe, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "image/spearman" in done.stdout
    assert "image/hard_overlap_by_chance" in done.stdout
    return folder


def checkpoint(run, step):
    return load_file(run / "checkpoints" / f"step-{step:09d}" / "model.safetensors")


def student_of(name):
    """What a teacher's weight is the average of."""
    own = name.removeprefix(TEACHER)
    if own.startswith("backbone."):
        return own
    if own.startswith("corruptions."):
        stream, _, part = own.removeprefix("corruptions.").partition(".")
        return f"objective.streams.{stream}.corruption.{part}"
    part = own.removeprefix("predictors.image.")
    shared = part.partition(".")[0] in ("entry", "mask_token")  # with the stream's predictor, which comes first
    return f"objective.streams.image.{'' if shared else 'loss_prediction.'}predictor.{part}"


def follow(run, last):
    """(step, teacher before, teacher after, student after) of every update up to `last`."""
    for step in range(2, last + 1):
        before, after = checkpoint(run, step - 1), checkpoint(run, step)
        names = [name for name in after if name.startswith(TEACHER) and not name.endswith((".mean", ".std"))]
        assert len(names) > 40
        for name in names:
            yield step - 1, before[name], after[name], after[student_of(name)]


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_teacher_follows_once_an_update_however_many_micro_batches_there_are(
    recipe, straight, tmp_path, micro_batch
):
    run = straight
    if micro_batch:
        run = tmp_path / "run"
        done = mmpt("pretrain", recipe, "--out", run, f"data.micro_batch_size={micro_batch}")
        assert done.returncode == 0, done.stderr
        assert close(weights(run), weights(straight))
    for step, before, after, student in follow(run, STEPS):
        momentum = AVERAGE.momentum(step / STEPS)
        torch.testing.assert_close(after, momentum * before + (1 - momentum) * student, rtol=1e-5, atol=1e-7)
    first, last = checkpoint(run, 1), checkpoint(run, STEPS)
    moved = [name for name in last if name.startswith(TEACHER) and not torch.equal(first[name], last[name])]
    assert len(moved) > 40
    figures = {name for line in read_lines(run / "metrics.jsonl") for name in line}
    assert {f"image/{name}" for name in ("spearman", "teacher_spearman", "hard_overlap")} <= figures


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "ranks", "precision"), [(2, 2, "fp32"), (2, 1, "bf16")])
def test_every_stage_without_divided_weights_has_the_same_teacher(recipe, straight, tmp_path, stage, ranks, precision):
    settings = [f"deepspeed.zero_optimization.stage={stage}", f"training.precision={precision}"]
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", *settings, ranks=ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    if precision == "fp32":
        assert close(weights(tmp_path / "run"), weights(straight))
    for step, before, after, student in follow(tmp_path / "run", STEPS):
        momentum = AVERAGE.momentum(step / STEPS)
        assert before.dtype == after.dtype == torch.float32
        torch.testing.assert_close(after, momentum * before + (1 - momentum) * student, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_an_update_that_is_skipped_moves_no_teacher(recipe, tmp_path):
    settings = ["training.optimizer.learning_rate=1e30", "training.optimizer.warmup_steps=0", "training.steps=5"]
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    first, last = checkpoint(tmp_path / "run", 1), checkpoint(tmp_path / "run", 5)
    skipped = [line for line in read_lines(tmp_path / "run" / "ledger.jsonl") if line["event"] == "skipped update"]
    assert {line["step"] for line in skipped} == {1, 2, 3, 4}
    assert all(first[name].isfinite().all() and torch.equal(first[name], last[name]) for name in first)


@pytest.mark.slow
def test_kills_change_not_a_byte_of_student_moments_and_teacher(recipe, tmp_path):
    wanted, run = tmp_path / "straight", tmp_path / "killed"
    stage = "deepspeed.zero_optimization.stage=2"
    assert mmpt("pretrain", recipe, "--out", wanted, stage).returncode == 0
    command = ("pretrain", recipe, "--out", run, stage)
    kill_at_random(run, STEPS, *command, kills=2, seed=2, within=0.15)
    done = mmpt(*command)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stdout
    for name in ("model.safetensors", "optimizer.safetensors"):
        mine, theirs = (r / "checkpoints" / f"step-{STEPS:09d}" / name for r in (run, wanted))
        assert hashlib.sha256(mine.read_bytes()).digest() == hashlib.sha256(theirs.read_bytes()).digest()


def test_divided_weights_are_refused_before_anything_is_written(recipe, tmp_path):
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", "deepspeed.zero_optimization.stage=3")
    assert done.returncode == 2, done.stdout
    assert "deepspeed.zero_optimization.stage: 3 divides the weights" in done.stderr
    assert "use stage 0, 1 or 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_description_counts_the_teacher_apart(recipe):
    done = mmpt("describe", recipe)
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if "│" in line]
    counts = {row[0]: int(row[1].replace(",", "")) for row in cells if row[1].replace(",", "").isdigit()}
    parts = ("encoder text", "encoder image", "trunk", "objective (its own)")
    assert counts["all"] == sum(counts[part] for part in parts)
    assert 0 < counts["teacher (a copy, not trained)"] < counts["all"]
