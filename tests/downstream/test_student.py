"""Students of fitted tasks: their loss, what counts in it, and what comes out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import mmpt
from mmpt.cli import main
from mmpt.compress.command import Compressed
from mmpt.compress.methods import Row
from mmpt.compress.taught import Taught
from mmpt.config import component
from mmpt.downstream.encoder import load
from mmpt.errors import ConfigError
from mmpt.finetune.saved import load as load_task
from mmpt.finetune.tasks import Task
from mmpt.tokens import Batch, Labels

FACTS = {
    "classifier": {"classes": ["hill", "sea", "sky"], "counts": [3, 4, 5]},
    "multi_label": {"names": ["a", "b", "c"], "counts": [1, 2, 3], "samples": 4},
    "regressor": {"mean": 2.0, "deviation": 3.0},
}
LABELS = {"classifier": ["sea", "hill"], "multi_label": [["a"], ["b", "c"]], "regressor": [1.0, 4.0]}


@pytest.fixture
def taught_of(run):
    def make(kind, **settings):
        task = component(Task, kind, label="place").build(load(run))
        task.facts = FACTS[kind]
        known = {"distance": "mse", "label_weight": 1.0, "teacher_weight": 1.0}
        return Taught(task, **{**known, "temperature": 1.0, **settings})

    return make


def batch_of(rows):
    labels = Labels(torch.from_numpy(np.stack(rows)), torch.ones(len(rows), dtype=torch.bool))
    return Batch({}, torch.arange(len(rows)), torch.arange(len(rows)), "finetune", 0, labels)


def batch_with_teacher(taught, said, labels):
    return batch_of([taught.with_teacher(own, taught.read(label)) for own, label in zip(said, labels, strict=True)])


@pytest.mark.parametrize("kind", list(FACTS))
def test_a_student_that_says_what_its_teacher_says_has_the_loss_of_the_labels_alone(taught_of, kind):
    taught = taught_of(kind, teacher_weight=0.7)
    said = torch.randn(2, taught.size)
    batch = batch_with_teacher(taught, said.numpy(), LABELS[kind])
    own = batch_of([taught.read(label) for label in LABELS[kind]])
    assert_close(taught.loss(said, batch).double(), taught.inner.loss(said, own).double())
    assert (taught.loss(said + 1.5 * torch.arange(taught.size) + 1, batch) != taught.loss(said, batch)).all()


@pytest.mark.parametrize("kind", list(FACTS))
def test_without_the_teachers_weight_training_is_supervised(taught_of, kind):
    taught = taught_of(kind, teacher_weight=0.0)
    outputs, one, other = torch.randn(3, 2, taught.size)
    first, second = (
        taught.loss(outputs, batch_with_teacher(taught, said.numpy(), LABELS[kind])) for said in (one, other)
    )
    assert torch.equal(first, second)


def test_the_divergence_is_that_of_the_formula(taught_of):
    taught = taught_of("classifier", distance="kl", label_weight=0.0, teacher_weight=0.3, temperature=2.0)
    outputs, said = torch.randn(2, 2, 3)
    goal, own = ((x / 2).log_softmax(1) for x in (said, outputs))
    wanted = 0.3 * 4 * torch.nn.functional.kl_div(own, goal, log_target=True, reduction="none").sum(1)
    assert_close(taught.loss(outputs, batch_with_teacher(taught, said.numpy(), LABELS["classifier"])), wanted)


def test_probabilities_are_of_classes_alone(taught_of):
    with pytest.raises(ConfigError, match="'kl' compares probabilities of classes, and Regressor has none; use mse"):
        taught_of("regressor", distance="kl")


# ---- from a fitted task to another


RECIPE = """
run: TEACHER
data: SHARDS
method:
  type: student
  width: 8
  depth: 1
  heads: 2
  fit: {epochs: 2, batch_size: 32, learning_rate: 1e-2}
"""


@pytest.fixture(scope="module")
def teacher(run, shards, tmp_path_factory):
    task = mmpt.finetune.Classifier(mmpt.load(run), label="place")
    result = task.fit(shards, strategy="full", epochs=4, batch_size=16, learning_rate=1e-2)
    return result.save(tmp_path_factory.mktemp("tasks") / "teacher")


@pytest.fixture(scope="module")
def recipe(teacher, shards):
    path = teacher.parent / "student.yaml"
    path.write_text(RECIPE.replace("TEACHER", str(teacher)).replace("SHARDS", str(shards)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def student(recipe):
    assert main(["compress", str(recipe), "--out", str(recipe.parent / "student")]) == 0
    return recipe.parent / "student"


def test_the_student_is_a_smaller_task_that_knows_what_its_teacher_knew(teacher, student, shards):
    small, large = load_task(student), load_task(teacher)
    assert (small.encoder.width, small.encoder.backbone.trunk.depth) == (8, 1)
    assert small.facts == large.facts
    told = json.loads((student / "compression.json").read_text(encoding="utf-8"))
    assert told["parameters"][1] < 0.6 * told["parameters"][0]
    accuracy = small.evaluate(shards)["accuracy"].value
    assert accuracy == pytest.approx(told["method"]["after"]["accuracy"]["value"])
    assert accuracy > 0.8
    before = large.evaluate(shards)["accuracy"]
    assert before.value == pytest.approx(told["method"]["before"]["accuracy"]["value"])
    assert before.trivial == told["method"]["before"]["accuracy"]["trivial"] < 0.7


def test_the_table_has_a_trivial_column_where_there_are_scores():
    size, score = Row("parameters", "9", "4"), Row("accuracy, test", "0.9", "0.8", "0.5")
    tables = [Compressed(Path("out"), {}, rows, ()).table() for rows in ((size,), (size, score))]
    assert [[column.header for column in table.columns] for table in tables] == [
        ["", "before", "after"],
        ["", "before", "after", "trivial"],
    ]
    assert [str(cell) for cell in tables[1].columns[3].cells] == ["", "0.5"]


def test_the_folder_opens_like_any_other_and_keeps_no_scratch(student):
    assert mmpt.load(student).encode([{"text": "the old path"}], pool="mean").shape == (1, 8)
    assert {path.name for path in student.iterdir()} >= {"task.json", "result.json", "recipe.yaml", "checkpoints"}
    assert not (student / "progress").exists()


def test_the_teacher_is_left_as_it_was(teacher, student):
    before = load_task(teacher)
    assert before.encoder.width == 16
    assert not before.model.training


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["method.heads=3"], "width 8 can't be shared by 3 heads"),
        (["method.width=0"], "width: expected at least 1, got 0"),
        (["method.start=first_blocks"], "the teacher's first blocks have its width and heads; leave those out"),
        (["method.fit.metric=f1"], "fit.metric: expected a metric (accuracy"),
        (["method.label_weight=0", "method.teacher_weight=0"], "not both 0"),
        (
            ["method={type: student, start: first_blocks, depth: 3}"],
            "depth: expected 1 to 2, the blocks of the run, got 3",
        ),
    ],
)
def test_what_no_student_can_be_is_refused(recipe, tmp_path, capsys, changes, sentence):
    assert main(["compress", str(recipe), "--out", str(tmp_path / "out"), *changes]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_task_is_refused(recipe, run, tmp_path, capsys):
    assert main(["compress", str(recipe), "--out", str(tmp_path / "out"), f"run={run}"]) == 2
    assert "holds no fitted task to learn from; name a folder of 'mmpt finetune'" in capsys.readouterr().err
