"""The command line as a user has it: one process, and the real launcher with two ranks."""

import json

import pytest
import torch
import yaml
from running import mmpt, weights

from mmpt.training.ledger import read_lines


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
