"""The masked loss beside the task's: its weight, its gradient, its copy of the samples, and what can't be had again."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close
from walks import RECIPE, backward, make_run, shake, unfitted

import mmpt
from mmpt.config import component
from mmpt.downstream.pretrained import load_pretrained
from mmpt.errors import ConfigError
from mmpt.finetune import Classifier
from mmpt.finetune.strategies import Strategy


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def two_losses(encoder, **settings):
    """A model under `auxiliary`, and a batch of it."""
    model, batch = unfitted(encoder, seed=1)
    component(Strategy, "auxiliary", **settings).build().prepare(model, encoder)
    return model.eval(), batch


def test_the_gradient_is_that_of_the_task_and_the_weighted_one_of_the_masked_loss(encoder):
    model, batch = two_losses(encoder, start=0.2, end=0.1)
    hidden = model.hide(batch, 0.5)
    assert set(hidden) == {"task", "image"}
    both = backward(model, model(batch, hidden, 0.5).losses, hidden)
    task = backward(model, model.objective.task(model.backbone, batch, hidden, 0.5).losses, hidden)
    own = {"image": hidden["image"]}
    masked = backward(model, model.objective.masked(model.backbone, batch, own, 0.5).losses, own)
    weight = (0.2 * 0.1) ** 0.5  # half-way down an exponential
    assert any(gradient.any() for gradient in masked.values())
    for name, gradient in both.items():
        assert_close(gradient, task.get(name, 0.0) + weight * masked.get(name, 0.0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("start", "end"), [(0.2, 0.1), (0.3, 0.3), (0.7, 0.013), (0.0, 0.0)])
def test_the_weight_begins_and_ends_with_the_stated_numbers_to_the_bit(encoder, start, end):
    objective = two_losses(encoder, start=start, end=end)[0].objective
    assert [objective.weight(progress) for progress in (0.0, 1.0)] == [start, end]
    shares = [objective.weight(progress / 8) for progress in range(9)]
    if start:
        steps = [later / sooner for sooner, later in pairwise(shares)]
        assert steps == pytest.approx([steps[0]] * 8)  # an exponential


def test_the_task_sees_complete_samples_and_the_masked_loss_a_hidden_copy(encoder, run):
    model, batch = two_losses(encoder, start=1.0, end=1.0)
    plain, _ = unfitted(encoder, seed=1)
    hidden = model.hide(batch, 0.0)
    losses = model(batch, hidden, 0.0).losses
    assert hidden["image"].hidden.any()
    assert torch.equal(losses["task"].total, plain.eval()(batch, plain.hide(batch, 0.0), 0.0).losses["task"].total)
    pretrained = load_pretrained(run).model.eval()
    alone = pretrained.hide(batch, 0.0)
    assert torch.equal(alone["image"].hidden, hidden["image"].hidden)
    assert torch.equal(pretrained(batch, alone, 0.0).losses["image"].total, losses["image"].total)


def test_a_masked_loss_of_weight_0_changes_not_a_bit(encoder, shards):
    weights = []
    for strategy in (component(Strategy, "full"), component(Strategy, "auxiliary", start=0.0, end=0.0)):
        task = Classifier(encoder, label="place", inputs=["image"])
        task.fit(shards, strategy=strategy, epochs=1, batch_size=32)
        weights.append(task.model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.fixture
def softened(tmp_path, shards):
    """A run with soft labels, and the run that says them."""
    teacher = make_run(tmp_path / "teacher", shards)
    text = RECIPE.replace("token_ids}", f"token_ids, soft_labels: {{type: frozen_run, run: {teacher}}}}}")
    return make_run(tmp_path / "softened", shards, text=text), teacher


def classified(run, shards, **settings):
    task = Classifier(mmpt.load(run), label="place", inputs=["text"])
    return task.fit(shards, strategy="auxiliary", epochs=1, batch_size=64, **settings)


def test_an_auxiliary_loss_has_the_soft_labels_of_its_run(softened, shards):
    fitted = classified(softened[0], shards)
    assert fitted.history[-1]["text/soft_divergence"] > 0
    assert not any("soft" in name for name in fitted.task.model.state_dict())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda teacher: teacher.rename(teacher.with_name("moved")),
            "can't be used: .*teacher: there is no recipe.yaml",
        ),
        (shake, "weights of .*teacher are not the ones .* or use strategy 'full'"),
    ],
)
def test_soft_labels_that_can_not_be_had_again_are_refused_and_nothing_is_left(
    softened, shards, tmp_path, change, sentence
):
    run, teacher = softened
    change(teacher)
    with pytest.raises(ConfigError, match=f"'auxiliary' trains by the objective of .*softened as well: .*{sentence}"):
        classified(run, shards, out=tmp_path / "fit")
    assert not (tmp_path / "fit").exists()
