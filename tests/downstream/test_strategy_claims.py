"""What strategies are for, on a task that a frozen encoder can't do: claims that hold for a pretrained encoder, fitted.

The encoder is pretrained once, past the point where it tells topics; the labels are the exclusive or of `topics.py`.
"""

from copy import copy, deepcopy

import pytest
import topics

import mmpt
from mmpt.cli import main
from mmpt.compress.methods.two_four import losses_of
from mmpt.config import component
from mmpt.downstream.pretrained import load_pretrained
from mmpt.finetune import Classifier
from mmpt.finetune.examples import examples_of
from mmpt.finetune.rows import Rows
from mmpt.finetune.strategies import Strategy

pytestmark = pytest.mark.slow

UNSEEN = 100_000  # documents from here on are in no pretraining
LABELLED = [topics.document(UNSEEN + number) for number in range(2500)]
TRAIN, VALIDATION, TEST = LABELLED[:1000], LABELLED[1000:1500], LABELLED[1500:]
FITS = {  # epochs, learning rate and settings
    "linear_probe": (6, None, {}),
    "norm_only": (6, None, {}),
    "mask_tuning": (8, None, {}),
    "full": (6, 3e-3, {"layer_decay": 1.0}),
    "auxiliary": (6, 3e-3, {"layer_decay": 1.0, "start": 0.5, "end": 0.25}),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("topics")
    recipe = folder / "topics.yaml"
    recipe.write_text(topics.RECIPE.replace("SHARDS", str(topics.write(folder, 3000))), encoding="utf-8")
    assert main(["pretrain", str(recipe), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def fits(run):
    """The fitted tasks."""
    encoder = mmpt.load(run)
    return {name: fitted(Classifier(encoder, label="label"), name, *own) for name, own in FITS.items()}


def fitted(task, name, epochs, learning_rate, settings):
    strategy = component(Strategy, name, **settings)
    return task.fit(TRAIN, VALIDATION, strategy=strategy, epochs=epochs, learning_rate=learning_rate).task


def accuracy(task):
    return task.evaluate(TEST)["accuracy"].value


def masked_loss(run, backbone):
    """Of documents that are in no training, with the same tokens hidden for every encoder."""
    pretrained = load_pretrained(run)
    pretrained.model.backbone.load_state_dict(backbone.state_dict())
    task = Classifier(mmpt.load(run), label="label")
    rows = Rows(task, examples_of(TEST, task.inputs, label=None, split="test"), None)
    return losses_of(pretrained.model, [rows.batch(range(0, 256))])["text"]


def test_an_encoder_that_changes_does_what_a_frozen_one_can_not(fits):
    scores = {name: accuracy(task) for name, task in fits.items()}
    assert scores["linear_probe"] < 0.65
    assert scores["mask_tuning"] >= scores["linear_probe"] + 0.10
    assert scores["norm_only"] > scores["linear_probe"]
    assert scores["full"] > scores["linear_probe"] + 0.10


def test_the_auxiliary_loss_halves_what_is_forgotten_at_least(run, fits):
    before = masked_loss(run, fits["linear_probe"].model.backbone)
    assert before < 1.2  # the encoder tells topics: without them a document's next symbol is one of eight
    plain, aux = (masked_loss(run, fits[name].model.backbone) for name in ("full", "auxiliary"))
    assert aux < 0.5 * plain
    assert accuracy(fits["auxiliary"]) > accuracy(fits["linear_probe"]) + 0.10


def test_masks_that_are_learned_leave_more_of_a_fitted_task_than_masks_of_chance(fits):
    learned, chance = (copy(fits["full"]) for _ in range(2))
    fitted(learned, "mask_finetuning", 6, None, {})
    strategy = component(Strategy, "mask_finetuning").build()  # with the scores that it begins with
    chance.model = deepcopy(chance.model)
    strategy.prepare(chance.model, chance.encoder)
    strategy.finish(chance.model)
    assert accuracy(learned) > accuracy(chance)
