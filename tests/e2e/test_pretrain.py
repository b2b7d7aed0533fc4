"""The command line as a user has it: one process, and the real launcher with two ranks."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from running import environment, mmpt, start, write_recipe
from safetensors.torch import load_file

from mmpt.training.checkpoint import latest
from mmpt.training.ledger import read_lines


def weights(run):
    newest = latest(run / "checkpoints")
    assert newest is not None
    return load_file(newest / "model.safetensors")


def close(one, other, tolerance=2e-5):
    """All but the key biases: softmax ignores them, so their gradient is rounding noise that Adam makes large."""
    for name, value in one.items():
        difference = (value - other[name]).abs()
        if name.endswith("qkv.bias"):
            third = len(difference) // 3
            difference = torch.cat([difference[:third], difference[2 * third :]])
        assert difference.max() < tolerance, name
    return True


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards):
    """A finished run of one process."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder, shards)
    done = mmpt("pretrain", recipe, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", recipe, done


def test_a_run_shows_its_progress_in_plain_lines_and_keeps_chatter_in_the_log(run):
    folder, _, done = run
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["4/12", "8/12", "12/12"]
    assert lines[0].endswith("beginning at step 0 of 12, 1 rank on cpu")
    assert all(word in lines[1] for word in ("loss", "lr", "samples/s", "tokens/s", "data-wait", "padding", "left"))
    assert "report.html" in lines[-1]
    assert (folder / "log.txt").exists()


def test_a_run_folder_holds_everything_that_is_needed_later(run):
    folder, _, _ = run
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-000000008", "step-000000012"]
    assert (
        json.loads((folder / "environment.json").read_text())["packages"]["torch"]
        == torch.__version__.partition("+")[0]
    )
    assert [line["done"] for line in read_lines(folder / "metrics.jsonl")] == [4, 8, 12]
    assert list(folder.glob("events.out.tfevents.*"))
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    resolved = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert resolved["training"]["optimizer"]["schedule"] == "cosine"


def test_the_resolved_recipe_gives_the_same_run(run, tmp_path):
    folder, _, _ = run
    done = mmpt("pretrain", folder / "recipe.yaml", "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    again, before = weights(tmp_path / "again"), weights(folder)
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_a_finished_run_says_that_it_is_complete_and_changes_nothing(run):
    folder, recipe, _ = run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = mmpt("pretrain", recipe, "--out", folder)
    assert done.returncode == 0
    assert "complete, all 12 steps are done; nothing was changed" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_recipe_on_the_same_run_folder_is_refused_with_the_difference(run):
    folder, recipe, _ = run
    done = mmpt("pretrain", recipe, "--out", folder, "training.optimizer.learning_rate=0.5")
    assert done.returncode == 2
    assert "-    learning_rate: 0.01" in done.stderr
    assert "+    learning_rate: 0.5" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_run_is_left_alone(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    done = mmpt("pretrain", run[1], "--out", tmp_path)
    assert (done.returncode, [path.name for path in tmp_path.iterdir()]) == (2, ["thesis.tex"])
    assert "not a run of mmpt" in done.stderr


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trunk.dept=3", "did you mean 'depth'?"),
        ("objective.streams.image.predictor=mlp", "corruption 'drop' leaves hidden tokens out"),
        ("data.sources.prose.shards=nowhere", "there is no manifest.json"),
        ("data.batch_size=8 data.micro_batch_size=3", "does not divide the 8"),
        ("deepspeed.train_batch_size=8", "mmpt fills this in; set data.batch_size instead"),
        ("objective.streams.image.masking.unit=word", "has a meaning for text only"),
        ("data.sources.prose.layout.length=16", "can't hold a document of 32"),
        ("streams.image.patch=5", "does not divide size 16"),
        ("trunk.heads=3", "width 16 can't be shared by 3 heads"),
    ],
)
def test_a_mistake_gets_one_sentence_exit_code_two_and_leaves_nothing(run, tmp_path, override, sentence):
    done = mmpt("pretrain", run[1], "--out", tmp_path / "run", *override.split())
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_deepspeed_refuses_gets_one_sentence_and_the_corrected_recipe_may_use_the_folder(run, tmp_path):
    _, recipe, _ = run
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", "deepspeed.zero_optimization.stage=7")
    assert done.returncode == 2
    assert "deepspeed: DeepSpeed refuses this section" in done.stderr
    assert "Traceback" not in done.stderr
    assert mmpt("pretrain", recipe, "--out", tmp_path / "run", "training.steps=2").returncode == 0


def test_bfloat16_and_checkpointing_train(run, tmp_path):
    settings = ["training.precision=bf16", "trunk.checkpointing=true", "deepspeed.zero_optimization.stage=1"]
    done = mmpt("pretrain", run[1], "--out", tmp_path / "run", "training.steps=4", *settings)
    assert done.returncode == 0, done.stderr
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in weights(tmp_path / "run").values())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_under_the_launcher_learn_what_one_process_learns(run, tmp_path, stage):
    folder, recipe, _ = run
    settings = [f"deepspeed.zero_optimization.stage={stage}", "data.workers=1"]
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", *settings, ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("step 12/12") == 1  # one rank speaks
    assert close(weights(folder), weights(tmp_path / "run"))


@pytest.mark.slow
def test_one_times_eight_and_two_micro_batches_of_four_learn_the_same(run, tmp_path):
    folder, recipe, _ = run
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", "data.micro_batch_size=4")
    assert done.returncode == 0, done.stderr
    assert close(weights(folder), weights(tmp_path / "run"))


def stop_at_step_four(process):
    """Ctrl-C, which reaches launcher and ranks alike, once the line of step 4 is there; the rest of the output."""
    assert process.stdout is not None
    for line in process.stdout:
        if "step 4/40" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=120)[0]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_interrupted_run_goes_on_exactly_under_every_zero_stage_and_with_other_ranks(run, tmp_path, stage):
    settings = ("training.steps=40", f"deepspeed.zero_optimization.stage={stage}")
    straight = mmpt("pretrain", run[1], "--out", tmp_path / "straight", *settings)
    assert straight.returncode == 0, straight.stderr
    changes = [(1, 1)] if stage == 1 else [(1, 1), (1, 2)] if stage == 2 else [(2, 1)]
    for first, then in changes:
        folder = tmp_path / f"{first} to {then}"
        stop_at_step_four(start("pretrain", run[1], "--out", folder, *settings, ranks=first))
        done = mmpt("pretrain", run[1], "--out", folder, *settings, ranks=then)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "going on from step" in done.stdout
        final, wanted = weights(folder), weights(tmp_path / "straight")
        if first == then == 1:
            assert all(torch.equal(final[name], wanted[name]) for name in wanted)
        else:
            assert close(final, wanted, 2e-4)


def test_a_damaged_checkpoint_is_passed_over_aloud_and_with_none_whole_the_run_is_refused(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    damaged = folder / "checkpoints" / "step-000000012" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = mmpt("pretrain", run[1], "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "step 12 is damaged and passed over" in done.stdout
    assert "going on from step 8 of 12" in done.stdout
    final, wanted = weights(folder), weights(run[0])
    assert all(torch.equal(final[name], wanted[name]) for name in wanted)
    for path in (folder / "checkpoints").glob("*/state.json"):
        path.unlink()
    done = mmpt("pretrain", run[1], "--out", folder)
    assert done.returncode == 2
    assert "none of its 2 checkpoints is whole" in done.stderr
    assert len(list((folder / "checkpoints").iterdir())) == 2


def test_python_pretrains_twice_in_one_process(run, tmp_path):
    lines = [
        "import mmpt",
        f"for name in 'ab': mmpt.pretrain({str(run[1])!r}, 'training.steps=2', out={str(tmp_path)!r} + '/' + name)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_so_and_exits_with_its_own_code(run, tmp_path, number):
    folder, recipe, _ = run
    arguments = ("pretrain", recipe, "--out", tmp_path / "run", "training.log_every=1")
    process = start(*arguments)
    assert process.stdout is not None
    seen = process.stdout.readline()
    process.send_signal(number)
    output = seen + process.communicate(timeout=120)[0]
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 3, output
    assert "stopped by a signal after step" in output
    assert mmpt(*arguments).returncode == 0
    final, straight = weights(tmp_path / "run"), weights(folder)
    assert all(torch.equal(final[name], straight[name]) for name in straight)
