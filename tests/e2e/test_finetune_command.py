"""Fine-tuning as a user runs it: the verbs, a kill, two ranks, and mistakes."""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from running import close, kill_group, mmpt, start
from safetensors.torch import load_file

from mmpt.training.ledger import read_lines

RECIPE = """
encoder: RUN
task: {type: classifier, label: label, inputs: [image]}
train: SHARDS/images/train
validation: SHARDS/images/train
test: SHARDS/images
allow_shared_groups: true
strategy: full
fit: {epochs: 4, batch_size: 16}
"""


@pytest.fixture(scope="module")
def recipe(run, shards, tmp_path_factory):
    path = tmp_path_factory.mktemp("finetune") / "pictures.yaml"
    path.write_text(RECIPE.replace("RUN", str(run[0])).replace("SHARDS", str(shards)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(recipe):
    """A finished fit of one process."""
    folder = recipe.parent / "fitted"
    done = mmpt("finetune", recipe, "--out", folder, afresh=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def weights(folder):
    (checkpoint,) = (folder / "checkpoints").iterdir()
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.slow
def test_a_fit_shows_its_epochs_its_table_and_keeps_chatter_in_the_log(fitted):
    folder, done = fitted
    epochs = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert epochs == [f"{n}/4" for n in range(1, 5)]
    assert "balanced_accuracy" in done.stdout
    assert "DeepSpeed" not in done.stdout + done.stderr
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert len(result["history"]) == 4
    assert 0 <= result["test"]["accuracy"]["low"] <= result["test"]["accuracy"]["high"] <= 1
    assert not (folder / "progress").exists()
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["done"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["accuracy"] == result["history"][-1]["accuracy"]
    assert list(folder.glob("events.out.tfevents*"))


@pytest.mark.slow
def test_the_same_command_again_tells_the_result_again(fitted, recipe):
    done = mmpt("finetune", recipe, "--out", fitted[0])
    assert done.returncode == 0, done.stderr
    assert "epoch 1/4" not in done.stdout
    assert done.stdout.splitlines()[-5:] == fitted[1].stdout.splitlines()[-5:]


@pytest.mark.slow
def test_killed_after_an_epoch_the_same_command_ends_with_the_same_weights(fitted, recipe, tmp_path):
    folder = tmp_path / "killed"
    process = start("finetune", recipe, "--out", folder)
    assert process.stdout is not None
    while "epoch 2/4" not in process.stdout.readline():
        assert process.poll() is None
    kill_group(process)
    done = mmpt("finetune", recipe, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "epoch 1/4" not in done.stdout
    assert "epoch 4/4" in done.stdout
    mine, theirs = weights(folder), weights(fitted[0])
    assert all(torch.equal(value, mine[name]) for name, value in theirs.items())


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(fitted, recipe, tmp_path):
    stage = "fit.deepspeed={zero_optimization: {stage: 2}}"
    done = mmpt("finetune", recipe, "--out", tmp_path / "two", stage, ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert close(weights(tmp_path / "two"), weights(fitted[0]))


@pytest.mark.slow
def test_a_fitted_task_is_evaluated_predicts_and_embeds(fitted, shards, tmp_path):
    done = mmpt("evaluate", fitted[0], shards / "images" / "train")
    assert done.returncode == 0, done.stderr
    assert "macro_f1" in done.stdout
    done = mmpt("predict", fitted[0], shards / "images" / "train", "--out", tmp_path / "guesses.csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "guesses.csv")
    scores = [name for name in table.columns if name.startswith("score of ")]
    assert (table["prediction"] == table[scores].idxmax(axis=1).str.removeprefix("score of ")).all()
    done = mmpt("embed", fitted[0], shards / "images", "--out", tmp_path / "features.parquet", "--streams", "image")
    assert done.returncode == 0, done.stderr
    features = pq.read_table(tmp_path / "features.parquet")
    assert len(features) == 61
    assert len(features["features"][0]) == 16
    assert not list(tmp_path.glob(".*"))
    again = mmpt("embed", fitted[0], shards / "images", "--out", tmp_path / "features.parquet")
    assert again.returncode == 2
    assert "is there already" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("fit.epochs=7", "holds a fit with settings"),
        ("fit.epoch=7", "did you mean"),
    ],
)
def test_mistakes_get_a_sentence(fitted, recipe, setting, sentence):
    done = mmpt("finetune", recipe, "--out", fitted[0], setting)
    assert done.returncode == 2, done.stdout
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
