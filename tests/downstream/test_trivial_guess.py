"""What one who never looks at a sample scores is told beside every score, from what is saved with a task."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error
from walks import walk

import mmpt
from mmpt.cli import main
from mmpt.config import component
from mmpt.downstream.encoder import load
from mmpt.finetune import load as load_task
from mmpt.finetune import repeat
from mmpt.finetune.tasks import Task


@pytest.fixture(scope="module")
def fitted(run, shards, tmp_path_factory):
    """One epoch with two seeds, and one of them saved."""
    task = mmpt.finetune.Classifier(mmpt.load(run), label="place", inputs=["text"])
    found = repeat(task, shards, test=shards, seeds=[0, 1], epochs=1, batch_size=32)
    return found, found.fits[1].save(tmp_path_factory.mktemp("tasks") / "places")


def test_a_saved_task_tells_what_a_trivial_guess_scores(fitted, shards):
    found, folder = fitted
    scores = load_task(folder).evaluate(shards, seed=1)
    assert {name: own.trivial for name, own in scores.items()} == found.fits[1].trivial_test
    places = [walk(number)["labels"]["place"] for number in range(300) if number // 5 % 5 == 4 and number % 5 != 4]
    training = [walk(number)["labels"]["place"] for number in range(300) if number // 5 % 5 < 3 and number % 5 != 4]
    commonest = max(sorted(set(training)), key=training.count)
    assert scores["accuracy"].trivial == places.count(commonest) / len(places)
    assert str(scores["accuracy"]) == str(found.fits[1].test["accuracy"])


def test_evaluate_and_repeats_have_a_column_of_it(fitted, shards, capsys):
    found, folder = fitted
    assert main(["evaluate", str(folder), str(shards / "validation")]) == 0
    for page in (capsys.readouterr().out, str(found)):
        assert "trivial" in page
        (line,) = (line for line in page.splitlines() if " accuracy" in line)
        assert f"{found.fits[0].trivial['accuracy']:.3f}" in line


KINDS = {
    "classifier": (["a", "b", "b"], ["b", "b", "b", "a"], {"accuracy": 0.75, "auroc": 0.5}),
    "multi_label": (
        [["x"], ["x", "y"], ["y"], ["x"]],
        [["x"], ["y"]],
        {
            "macro_auroc": 0.5,
            "macro_f1": 1 / 3,
        },
    ),
    "regressor": ([1.0, 2.0, 6.0], [3.0, 5.0], {"mae": mean_absolute_error([3, 5], [3, 3]), "spearman": math.nan}),
    "token_tagger": (
        [["a", "b"], ["b", None]],
        [["b", "a", "a"]],
        {"accuracy": accuracy_score(["b", "a", "a"], ["b", "b", "b"])},
    ),
    "segmenter": (
        [np.array([[0, 255], [7, 7]])],
        [np.array([[7, 7], [0, 7]])],
        {"pixel_accuracy": 0.75, "mean_iou": 0.375},
    ),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_guess_is_made_of_what_was_learned_of_the_training_labels(run, kind):
    learned, true, wanted = KINDS[kind]
    stream = {"token_tagger": {"stream": "text"}, "segmenter": {"stream": "image"}}.get(kind, {})
    task = component(Task, kind, label="own", **stream).build(load(run))
    task.facts = task.learn(learned)
    told = task.trivial([task.read(label) for label in true])
    assert {name: told[name] for name in wanted} == pytest.approx(wanted, nan_ok=True)
