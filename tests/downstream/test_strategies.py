"""Every strategy: exactly which weights move, and that plain layers are left behind which compute the same."""

from copy import copy

import pytest
import torch

import mmpt
from mmpt.config import component, find_parts
from mmpt.finetune import Classifier
from mmpt.finetune.model import plain_model
from mmpt.finetune.strategies import Strategy

STRATEGIES = find_parts("mmpt.finetune.strategies", Strategy)


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


@pytest.fixture(scope="module")
def fits(encoder, shards):
    """A short fit of each; those that go on with a fitted task have that of `full`."""
    found = {}
    for name in sorted(STRATEGIES, key=lambda name: STRATEGIES[name].fitted):
        task = Classifier(encoder, label="place", inputs=["image"])
        if STRATEGIES[name].fitted:
            task = copy(found["full"].task)
        found[name] = task.fit(shards, strategy=name, epochs=2, batch_size=16, learning_rate=1e-2)
    return found


@pytest.fixture
def changes(encoder, fits):
    """By name, of the backbone: what was added to each weight."""

    def of(name):
        before = dict(encoder.backbone.named_parameters())
        after = dict(fits[name].task.model.backbone.named_parameters())
        assert list(before) == list(after)  # nothing wrapped is left
        return {key: (after[key] - before[key]).detach() for key in before}

    return of


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_strategy_trains_and_its_task_is_plain(fits, name):
    result = fits[name]
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert 0 < result.trained <= result.parameters
    assert result.strategy == name
    assert all(type(m).__module__.startswith(("torch.nn", "timm", "mmpt")) for m in result.task.model.modules())
    assert not any(hasattr(m, "parametrizations") for m in result.task.model.modules())


def moved(changes):
    return {name for name, change in changes.items() if change.any()}


def test_full_moves_all_that_the_inputs_reach(changes):
    names = moved(changes("full"))
    assert {name for name in changes("full") if name.startswith("trunk.blocks")} <= names | {
        name for name in changes("full") if name.endswith("bias")
    }
    assert any(name.startswith("encoders.image") for name in names)
    assert not any(name.startswith("encoders.text") for name in names)


@pytest.mark.parametrize("name", ["linear_probe", "attentive_probe"])
def test_probes_leave_the_backbone_to_the_last_bit(changes, fits, name):
    assert moved(changes(name)) == set()
    head = fits[name].task.model.objective.head
    assert (type(head.pool).__name__ == "AttentionPool") == (name == "attentive_probe")
    assert fits[name].trained == sum(p.numel() for p in head.parameters())


def test_lora_changes_linear_layers_of_the_trunk_by_no_more_than_its_rank(encoder, shards):
    task = Classifier(encoder, label="place", inputs=["image"])
    task.fit(shards, strategy=component(Strategy, "lora", rank=2), epochs=1, batch_size=16, learning_rate=3e-2)
    before = dict(encoder.backbone.named_parameters())
    for name, after in task.model.backbone.named_parameters():
        change = (after - before[name]).detach()
        if change.any():
            assert name.startswith("trunk.blocks")
            assert name.endswith("weight")
            assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 2
    assert moved({n: after.detach() - before[n] for n, after in task.model.backbone.named_parameters()})


def test_lower_layers_learn_more_slowly(encoder):
    task = Classifier(encoder, label="place", inputs=["image"])
    task.facts = {"classes": ["a", "b"], "counts": [1, 1]}
    scales = component(Strategy, "full", layer_decay=0.5).build().scales(plain_model(task))
    assert scales["backbone.trunk.blocks.1.attention.qkv.weight"] == 0.5
    assert scales["backbone.trunk.blocks.0.norm1.bias"] == 0.25
    assert {s for n, s in scales.items() if n.startswith("backbone.encoders.") or "stream_embedding" in n} == {0.125}
    assert scales["backbone.trunk.norm.weight"] == 0.5
    assert not any(name.startswith("objective.") for name in scales)
