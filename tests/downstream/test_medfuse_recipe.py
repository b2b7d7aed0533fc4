"""MEDFuse's recipe on some of the real patients: diseases from laboratory values and notes."""

import csv
import gzip

import numpy as np
import pandas as pd
import pytest
from walks import make_run

import mmpt
from mmpt.config import component, load_settings, to_plain
from mmpt.data.builders.labs import build_labs
from mmpt.downstream.encoder import CutWarning
from mmpt.errors import DataError
from mmpt.finetune import Classifier, MultiLabel, Regressor, load
from mmpt.finetune.recipe import FinetuneRecipe, finetune
from mmpt.finetune.tasks import Task
from mmpt.recipes import find_recipe
from mmpt.samples import FOLDER

RECIPE = """
streams:
  labs: {type: labs, values: quantile}
  text: {type: text, max_length: 32}
trunk: {type: transformer, width: 16, depth: 1, heads: 2}
objective:
  type: masked_prediction
  streams:
    labs: {masking: {ratio: 0.5}, corruption: replace, predictor: mlp, target: cells}
    text: {masking: {ratio: 0.3}, corruption: replace, predictor: tied, target: token_ids}
data:
  sources:
    noted: {shards: SHARDS, streams: [labs, text]}
  batch_size: 4
  workers: 0
training:
  steps: 1
  optimizer: {learning_rate: 1e-3}
"""


@pytest.fixture(scope="module")
def table():
    with gzip.open(FOLDER / "labs" / "support2.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def patients(table, tmp_path_factory):
    """Every sixtieth, and the run of an encoder over them."""
    folder = tmp_path_factory.mktemp("patients")
    with (folder / "labs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table[::60])
    own = FOLDER / "labs"
    build_labs(
        folder / "labs.csv", folder / "labs", units=own / "units.csv", labels=("dzgroup", "hospdead"),
        categorical=("sex",), vocabulary=400, split=(0.6, 0.1, 0.3),
    )  # fmt: skip
    return folder / "labs", make_run(folder / "run", folder / "labs", (1,), RECIPE)


@pytest.fixture(scope="module")
def encoder(patients):
    return mmpt.load(patients[1])


def test_the_recipe_fits_and_its_task_names_diseases(patients, tmp_path):
    shards, run = patients
    overrides = [f"encoder={run}", f"train={shards}", "test=null", "fit.epochs=1", "fit.batch_size=32"]
    result = finetune("medfuse_labs_note", *overrides, out=tmp_path / "fit")
    names = ["cancer", "cirrhosis", "colon cancer", "heart failure", "lung cancer", "lung disease"]
    names += ["organ failure", "sepsis"]
    assert result.task.facts["names"] == names
    assert "mutual_information" in result.history[0]
    assert 0 <= result.metrics["macro_auroc"].low <= result.metrics["macro_auroc"].high <= 1
    again = load(tmp_path / "fit")
    assert to_plain(again.stands_for) == to_plain(result.task.stands_for)
    with pytest.warns(CutWarning, match=r"being longer than the encoder takes \(.*text 30\)"):
        assert all(set(found) <= set(names) for found in again.predict(shards))


def test_a_row_without_any_value_is_no_sample(encoder):
    task = Classifier(encoder, label="hospdead", inputs=["labs"])
    rows = [{"labs": {"sodium": 138.0}, "hospdead": 0}, {"labs": {}, "hospdead": 1}]
    with pytest.raises(DataError, match="sample 1: labs have nothing in them; leave it out"):
        task.fit(rows, rows[:1] * 2, epochs=1, allow_shared_groups=True)


def test_a_frame_may_have_a_column_for_each_laboratory_value(table, encoder):
    patients = [
        {"labs": {"sodium": float(row["sodium"]), "sex": row["sex"]}, "dead": row["hospdead"]} for row in table[:80]
    ]
    flat = pd.DataFrame([own["labs"] | {"dead": own["dead"], "ward": 3} for own in patients])
    fits = [Classifier(encoder, label="dead", inputs=["labs"]) for _ in range(2)]
    for task, data in zip(fits, (flat, pd.DataFrame(patients)), strict=True):
        task.fit(data[:60], data[60:], epochs=1)
    said, expected = (
        task.predict_scores(data) for task, data in zip(fits, (flat.drop(columns="dead"), patients), strict=True)
    )
    assert np.array_equal(said, expected)
    sodium = Regressor(encoder, label="sodium", inputs=["labs"])
    rows = sodium.examples(flat, split="train")
    assert (rows.values(0), rows.labels[0]) == (
        {"labs": {"sex": patients[0]["labs"]["sex"]}},
        patients[0]["labs"]["sodium"],
    )


def test_every_group_of_the_table_stands_for_its_diseases(table):
    recipe = load_settings(find_recipe("medfuse_labs_note", "finetune"), [], FinetuneRecipe)
    assert set(recipe.task.settings["stands_for"]) == {row["dzgroup"] for row in table}


def test_a_word_stands_for_names(encoder):
    task = MultiLabel(encoder, label="group", stands_for={"both": ["a", "b"], "one": ["a"], "none": []})
    task.facts = task.learn(["both", "one", "none", ["b"], {"a": True, "b": False}])
    assert task.facts == {"names": ["a", "b"], "counts": [3, 2], "samples": 5}
    assert [task.read(label).tolist() for label in ("both", "one", "none")] == [[1, 1], [1, 0], [0, 0]]
    with pytest.raises(
        DataError, match="stands_for says nothing of 'bot', but of both, one, none; did you mean 'both'"
    ):
        task.read("bot")
    plain = component(Task, "multi_label", label="group").build(encoder)
    with pytest.raises(DataError, match="expected a list of names, or a dict of name to true or false, got 'both'"):
        plain.read("both")
