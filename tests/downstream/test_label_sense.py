"""Labels that say nothing, or that nothing can be learned from: refused before anything is written."""

import numpy as np
import pandas as pd
import pytest
from walks import walk

import mmpt
from mmpt.errors import DataError
from mmpt.finetune import Classifier, MultiLabel, Regressor, TokenTagger
from mmpt.finetune.examples import examples_of


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def texts(labels):
    """A text and a label each; no two are of one group."""
    return [{"text": walk(5 * number)["text"], "own": label} for number, label in enumerate(labels)]


def refusal(task, labels, folder):
    """The sentence that a fit on these labels ends with; no folder is left of it."""
    with pytest.raises(DataError) as caught:
        task.fit(texts(labels), texts(labels), epochs=1, out=folder / "out")
    assert not (folder / "out").exists()
    return str(caught.value)


@pytest.mark.parametrize("has", [True, np.True_, 1, np.int64(1), 1.0, np.float32(1)])
def test_true_and_one_of_any_kind_are_true(encoder, has):
    task = MultiLabel(encoder, label="own")
    assert task.parse({"a": has, "b": type(has)(0), "c": False}) == {"a"}


@pytest.mark.parametrize("has", [float("nan"), np.float32("nan"), None, "no", "0", 2, 0.5, -1, []])
def test_what_is_neither_true_nor_false_is_refused_by_sample(encoder, tmp_path, has):
    said = refusal(MultiLabel(encoder, label="own"), [{"a": True}, {"a": False}, {"a": has}], tmp_path)
    assert said.startswith(f"sample 2: label 'own': expected true or false, 1 or 0 for 'a', got {has!r}")


@pytest.mark.parametrize(
    ("kind", "settings", "labels", "sentence"),
    [
        (Regressor, {}, [1.0, 2.0, float("inf")], "sample 2: label 'own': expected a finite number, got inf"),
        (Classifier, {}, ["a", ["b"], "a"], "sample 1: label 'own': expected the name or number of one class"),
        (TokenTagger, {"stream": "text"}, [["a", "b"], "ab"], "sample 1: label 'own': expected a list of classes"),
    ],
)
def test_a_training_label_that_is_none_is_told_of_by_its_sample(encoder, tmp_path, kind, settings, labels, sentence):
    assert refusal(kind(encoder, label="own", **settings), labels, tmp_path).startswith(sentence)


@pytest.mark.parametrize(
    ("kind", "labels", "sentence"),
    [
        (Classifier, ["sea"] * 4, "label 'own' is 'sea' in all 4 training samples"),
        (Classifier, [1, 1.0, True], "label 'own' is '1' in all 3 training samples"),
        (Regressor, [2.5] * 3, "label 'own' is 2.5 in all 3 training samples"),
        (MultiLabel, [["a"]] * 3, "label 'own' has the same names (a) in all 3 training samples"),
        (
            MultiLabel,
            [["b", "a"], {"a": 1, "b": True}],
            "label 'own' has the same names (a, b) in all 2 training samples",
        ),
        (MultiLabel, [[], {"a": 0}], "label 'own' is empty in all 2 training samples"),
    ],
)
def test_labels_that_are_all_the_same_are_refused(encoder, tmp_path, kind, labels, sentence):
    assert refusal(kind(encoder, label="own"), labels, tmp_path).startswith(sentence)


def test_one_name_that_some_samples_lack_is_enough_to_learn(encoder):
    assert MultiLabel(encoder, label="own").learn([["a"], ["a", "b"]])["counts"] == [2, 1]


# ---- what is missing, and where it is looked for


@pytest.mark.parametrize("nothing", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_what_a_table_holds_where_there_is_nothing_is_no_label(nothing):
    examples = examples_of(
        [{"text": "a", "own": nothing}, {"text": "b", "own": 1}], ["text"], label="own", split="train"
    )
    assert examples.labels == [None, 1]


def test_the_beginning_of_a_splits_name_is_enough(shards):
    whole, begun = (examples_of(shards / name, ["text"], label=None, split="") for name in ("validation", "val"))
    assert begun.where == whole.where
    assert begun.names == whole.names
    for name in ("vat", "t"):
        with pytest.raises(DataError, match=f"has no split '{name}', but test, train, validation"):
            examples_of(shards / name, ["text"], label=None, split="")
