"""Heads of words, pixels, letters and pairs as recipes: two ranks learn what one learns, and a stopped fit goes on."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from running import close, several
from safetensors.torch import load_file
from tones import FIELDS, tone
from walks import HILL, SEA, picture, prose

from mmpt.finetune.predictions import write_predictions
from mmpt.finetune.recipe import finetune

TASKS = {
    "words": "{type: token_tagger, label: kinds, stream: text, words: space}",
    "pixels": "{type: segmenter, label: classes, stream: image}",
    "pairs": "{type: retrieval, streams: [image, text], size: 8}",
    "letters": "{type: ctc, label: text, stream: speech}",
}
RECIPE = """
encoder: RUN
task: TASK
train: SHARDS/train
validation: SHARDS/validation
fit: {epochs: 2, batch_size: 5, learning_rate: 3e-3}
"""


def outing(number):
    """A picture whose lower half is water, words of three kinds, and every fifth without its picture."""
    classes = np.zeros((18, 22), dtype=np.uint8)
    classes[9:] = 1
    text = prose(number % 2, number)
    kinds = ["sea" if word in SEA else "hill" if word in HILL else "other" for word in text.split()]
    marks = {"__group__": f"{number}", "__split__": "train" if number < 16 else "validation"}
    own = {} if number % 5 == 4 else {"image": picture(number % 2, number), "classes": classes}
    return {"text": text, "labels": {"kinds": kinds}, **own, **marks}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, write_shards, run, tone_run):
    """By name."""
    folder = tmp_path_factory.mktemp("heads")
    fields = {"image": "png", "text": "txt", "labels": "json", "classes": "npy"}
    outings = write_shards(folder / "outings", [outing(number) for number in range(24)], **fields)
    said = [tone(n) | {"__split__": "train" if n < 16 else "validation"} for n in range(24)]
    spoken = write_shards(folder / "tones", said, **FIELDS)
    for name, task in TASKS.items():
        data, encoder = (spoken, tone_run) if name == "letters" else (outings, run)
        text = RECIPE.replace("RUN", str(encoder)).replace("SHARDS", str(data)).replace("TASK", task)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def fitted(recipes):
    """Of one rank, by name."""
    return {name: finetune(recipes / f"{name}.yaml", out=recipes / f"{name}-one") for name in TASKS}


def weights(folder):
    (checkpoint,) = (folder / "checkpoints").iterdir()
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(recipes, fitted):
    stages = {name: f"fit.deepspeed={{zero_optimization: {{stage: {number}}}}}" for number, name in enumerate(TASKS)}
    stages["letters"] = stages["words"]
    jobs = [[str(recipes / f"{name}.yaml"), str(recipes / f"{name}-two"), [stages[name]]] for name in TASKS]
    several(recipes, jobs, ranks=2, by="several_fits.py")
    for name, one in fitted.items():
        two = json.loads((recipes / f"{name}-two" / "result.json").read_text(encoding="utf-8"))
        losses = [[epoch["loss"] for epoch in own] for own in (one.history, two["history"])]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4), name
        assert close(weights(recipes / f"{name}-two"), weights(recipes / f"{name}-one"), 1e-4), name


class Stopped(Console):
    """Stops a fit when it tells of its second epoch: what the first one left is on disk."""

    def print(self, *objects, **settings):
        if str(objects[0]).startswith("epoch 2"):
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", TASKS)
def test_a_stopped_fit_goes_on_to_the_same_weights(recipes, fitted, name):
    folder = recipes / f"{name}-stopped"
    with pytest.raises(KeyboardInterrupt):
        finetune(recipes / f"{name}.yaml", out=folder, console=Stopped(file=io.StringIO()))
    assert (folder / "progress").exists()
    result = finetune(recipes / f"{name}.yaml", out=folder)
    mine, theirs = weights(folder), weights(recipes / f"{name}-one")
    assert all(torch.equal(value, mine[key]) for key, value in theirs.items())
    assert result.metrics == fitted[name].metrics


@pytest.mark.parametrize("name", TASKS)
def test_predictions_are_a_table(recipes, fitted, name):
    data = recipes / ("tones" if name == "letters" else "outings") / "validation"
    count = 7 if name == "pixels" else 8  # one has no picture
    assert write_predictions(recipes / f"{name}-one", data, recipes / f"{name}.csv") == count
    said = pd.read_csv(recipes / f"{name}.csv")["prediction"].tolist()
    if name == "words":
        assert all(set(json.loads(own)) <= {"sea", "hill", "other"} for own in said)
        assert len(json.loads(said[0])) == 9
    if name == "pixels":
        assert np.array(json.loads(said[0])).shape == (16, 16)
    if name == "pairs":
        assert np.isnan(said).tolist() == [number % 5 == 4 for number in range(16, 24)]
        assert {int(own) for own in said if own == own} <= set(range(8))
    if name == "letters":
        assert all(isinstance(own, str) or np.isnan(own) for own in said)
