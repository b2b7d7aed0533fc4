"""A model of another library under a task, as a recipe says it, and the folder that holds what came out."""

import json

import pytest
from numpy.testing import assert_array_equal

from mmpt.data.writer import ShardWriter
from mmpt.finetune import load
from mmpt.finetune.recipe import finetune
from tests.downstream.walks import walk
from tests.foreign.models import made

TASK = """
encoder: runs/none
task: {type: classifier, label: place, inputs: [text]}
train: SHARDS
fit: {epochs: 1, batch_size: 16, learning_rate: 1e-3}
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, tokenizers):
    folder = tmp_path_factory.mktemp("finetune")
    made("roberta", folder / "roberta", tokenizers("roberta"))
    declared = {"image": "png", "text": "txt", "labels": "json"}
    with ShardWriter(folder / "walks", declared, tokenizer=tokenizers("roberta")) as writer:
        for number in (n for n in range(60) if n % 5 != 4):
            writer.write(walk(number))
    (folder / "task.yaml").write_text(TASK.replace("SHARDS", str(folder / "walks")), encoding="utf-8")
    result = finetune(folder / "task.yaml", f"encoder={folder / 'roberta'}", out=folder / "out")
    return folder, result


def test_a_recipe_names_the_folder_as_its_encoder(fitted):
    folder, result = fitted
    assert result.metrics["accuracy"].value >= 0
    told = json.loads((folder / "out" / "fit.json").read_text(encoding="utf-8"))
    assert told["encoder"] == str(folder / "roberta")


def test_the_task_stands_on_its_own_and_keeps_of_the_folder_the_tokenizer_alone(fitted):
    folder, result = fitted
    kept = {path.name for path in (folder / "out" / "tokenizer" / "text").iterdir()}
    assert "tokenizer.json" in kept
    assert not kept & {"model.safetensors", "config.json"}
    samples = [{"text": "the old stone path"}, {"text": "wave and sail"}]
    before = result.task.predict_scores(samples)
    for path in (folder / "roberta").iterdir():
        path.unlink()
    assert_array_equal(load(folder / "out", device="cpu").predict_scores(samples), before)
