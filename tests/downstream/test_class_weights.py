"""Weighted losses are torch's, with scikit-learn's weights or those that were named."""

import json

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import BCEWithLogitsLoss
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from mmpt.config import component
from mmpt.downstream.encoder import load
from mmpt.errors import ConfigError
from mmpt.finetune import Segmenter
from mmpt.finetune.saved import settings_of
from mmpt.finetune.tasks import Task
from mmpt.tokens import Batch, Labels

LEARNED = {
    "classifier": [0, 0, 1, 2, 0, 2],
    "token_tagger": [["0", "0", None, "1"], ["2", "0"], [2]],
    "segmenter": [np.array([[0, 0, 1], [2, 255, 0]]), np.array([[2]])],
}
SETTINGS = {"classifier": {}, "token_tagger": {"stream": "text"}, "segmenter": {"stream": "image"}, "multi_label": {}}
NAMED = {"2": 2.5, "0": 0.5}


@pytest.fixture(scope="module")
def task_of(run):
    encoder = load(run)

    def make(kind, weights, learned):
        task = component(Task, kind, label="own", **SETTINGS[kind], class_weights=weights).build(encoder)
        task.facts = task.learn(learned)
        return task

    return make


def batch_of(values):
    numbers = torch.arange(len(values))
    return Batch({}, numbers, numbers, "finetune", 0, Labels(values, torch.ones_like(values).bool()))


@pytest.mark.parametrize("weights", ["balanced", NAMED, None])
@pytest.mark.parametrize("kind", list(LEARNED))
def test_the_loss_of_classes_is_torchs_with_these_weights(task_of, kind, weights):
    task = task_of(kind, weights, LEARNED[kind])
    assert task.facts["counts"] == [3, 1, 2]
    wanted = torch.tensor([0.5, 1.0, 2.5]) if weights is NAMED else None
    if weights == "balanced":
        own = compute_class_weight("balanced", classes=np.arange(3), y=[0, 0, 0, 1, 2, 2])
        wanted = torch.from_numpy(own).float()
    torch.manual_seed(0)
    if kind == "classifier":
        outputs, values = torch.randn(3, 3), torch.tensor([2, 0, 1])
        expected = cross_entropy(outputs, values, wanted, reduction="none")
    elif kind == "token_tagger":
        outputs, values = torch.randn(2, 4, 3), torch.randint(3, (2, 4))
        expected = cross_entropy(outputs.transpose(1, 2), values, wanted, reduction="none")
    else:
        outputs, values = torch.randn(2, 17, 3), torch.randint(3, (2, 16, 16))
        expected = cross_entropy(task._pixelwise(outputs), values, wanted, reduction="none")
    assert_close(task.loss(outputs, batch_of(values)), expected)


@pytest.mark.parametrize(
    ("weights", "wanted"), [("balanced", [1 / 3, 3.0, 1.0]), ({"b": 4}, [1.0, 4.0, 1.0]), (None, [1.0, 1.0, 1.0])]
)
def test_the_loss_of_several_labels_is_torchs_with_these_weights_of_having_one(task_of, weights, wanted):
    """Of four samples three have a, one has b, and all have c, which therefore weighs nothing else."""
    task = task_of("multi_label", weights, [["a", "c"], ["a", "b", "c"], ["a", "c"], ["c"]])
    outputs, values = torch.randn(2, 3), torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    batch = Batch({}, torch.arange(2), torch.arange(2), "finetune", 0, Labels(values, torch.ones(2).bool()))
    each = BCEWithLogitsLoss(pos_weight=torch.tensor(wanted), reduction="none")(outputs, values)
    assert_close(task.loss(outputs, batch), each.mean(1))


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_a_weight_of_no_class_is_refused_with_the_nearest(task_of, kind):
    learned = LEARNED.get(kind, [["0"], ["0", "1"], ["2"]])
    with pytest.raises(ConfigError, match=r"class_weights: '22' is no class .* have 0, 1, 2; did you mean '2'\?"):
        task_of(kind, {"0": 1.0, "22": 2.0}, learned)


@pytest.mark.parametrize("weight", [0, -1.0, float("inf")])
def test_a_weight_is_a_positive_number(task_of, weight):
    with pytest.raises(ConfigError, match=f"class_weights.0: expected a positive number, got {weight}"):
        task_of("classifier", {"0": weight}, LEARNED["classifier"])


def test_numbers_of_classes_are_names_and_come_back_from_a_saved_task(run, task_of):
    task = Segmenter(load(run), label="own", stream="image", class_weights={0: 2.0, 1: 0.5})
    again = json.loads(json.dumps(settings_of(task)))
    assert again["class_weights"] == {"0": 2.0, "1": 0.5}
    assert task_of("segmenter", again["class_weights"], LEARNED["segmenter"]).class_weights == {"0": 2.0, "1": 0.5}
