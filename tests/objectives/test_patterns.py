"""Two of four weights: the patterns, what is drawn, and what never moves."""

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.patterns import PATTERNS, SPREAD, grouped, hard, largest, linear_layers, prior, soft
from mmpt.settings import OptimizerSettings
from mmpt.training.optimizer import optimizer_for
from mmpt.training.section import check_model

OF = {
    "type": "masked_prediction",
    "streams": {"labs": {"masking": {"ratio": 0.5}, "corruption": "replace", "predictor": "mlp", "target": "cells"}},
}


@pytest.fixture
def weight():
    return torch.randn(6, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def logits():
    return torch.randn(6, 3, 6, generator=torch.Generator().manual_seed(2))


def test_there_are_all_six_patterns_of_two_in_four():
    assert len(set(PATTERNS)) == 6
    assert all(sum(pattern) == 2 and set(pattern) == {0.0, 1.0} for pattern in PATTERNS)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
def test_shares_are_two_in_each_group_at_any_temperature(logits, temperature):
    share, _ = soft(logits, 100.0, temperature, 5)
    assert_close(grouped(share).sum(2), torch.full((6, 3), 2.0))
    assert ((share >= 0) & (share <= 1 + 1e-6)).all()


def test_the_likeliest_pattern_has_exactly_two_in_each_group(logits):
    assert torch.equal(grouped(hard(logits)).sum(2), torch.full((6, 3), 2.0))
    assert set(hard(logits).unique().tolist()) == {0.0, 1.0}
    cold, _ = soft(logits, 1e4, 0.01, 5)
    assert_close(cold, hard(logits))


def test_noise_is_of_the_step_and_layer_alone(logits):
    assert torch.equal(soft(logits, 1.0, 1.0, 5)[0], soft(logits, 1.0, 1.0, 5)[0])
    assert not torch.equal(soft(logits, 1.0, 1.0, 5)[0], soft(logits, 1.0, 1.0, 6)[0])
    drawn = torch.stack([soft(torch.zeros(1, 50, 6), 1.0, 1e-3, n)[1].round().mean((0, 1)) for n in range(40)])
    assert (drawn.mean(0) - 1 / 6).abs().max() < 0.03  # Gumbel noise alone picks each as often


def test_magnitude_adds_one_nothing_or_minus_one_and_prefers_the_two_largest(weight):
    added = prior(weight, 3.0) / (3.0 * SPREAD)
    assert set(added.round(decimals=4).unique().tolist()) == {-1.0, 0.0, 1.0}
    kept = grouped(weight * hard(prior(weight, 3.0))).abs()
    wanted = grouped(weight).abs().topk(2, dim=2).values.sum(2)
    assert_close(kept.sum(2), wanted)
    assert torch.equal(added.argmax(2), largest(weight))


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    def make(width=16, seed=0, **settings):
        chosen = {"labs": modalities["labs"]}
        backbone = backbone_of(chosen, width=width)
        torch.manual_seed(seed)
        objective = component(Objective, "learned_patterns", of=OF, **settings).build(backbone, chosen)
        return MaskedModel(backbone, objective).train()

    return make


def test_only_logits_move(model_of, contents, batch_of):
    model, batch = model_of(), batch_of(labs=contents("labs"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = optimizer_for(model, OptimizerSettings(learning_rate=1e-2))
    hidden = model.hide(batch, 0.0)
    for _ in range(3):
        optimizer.zero_grad()
        step = model(batch, hidden, 0.0)
        sum(loss.total for loss in step.losses.values()).backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("objective.logits.")), name


def test_the_step_is_that_of_the_thinned_out_model(model_of, contents, batch_of):
    model, batch = model_of(kept_weight=0.0).eval(), batch_of(labs=contents("labs"))
    hidden = model.hide(batch, 0.5)
    said = model(batch, hidden, 0.5).losses["labs"].total
    dense = model.objective.of(model.backbone, batch, hidden, 0.5).losses["labs"].total
    weights = model.objective.sparse(model.backbone)
    model.load_state_dict(weights, strict=False)
    assert all((grouped(own) != 0).sum(2).max() <= 2 for own in weights.values())
    assert torch.equal(model.objective.of(model.backbone, batch, hidden, 0.5).losses["labs"].total, said)
    assert not torch.equal(said, dense)


def test_the_reward_is_for_weights_that_stay_and_ends_with_the_run(model_of, contents, batch_of):
    model, batch = model_of().eval(), batch_of(labs=contents("labs"))
    kept = sum(own.square().sum() for own in model.objective.sparse(model.backbone).values())
    for progress in (0.0, 0.25, 1.0):
        step = model(batch, model.hide(batch, progress), progress)
        assert_close(step.losses["kept"].total, -(1 - progress) * kept)


def test_every_linear_layer_of_the_blocks_is_taken_and_no_other(model_of):
    model = model_of()
    assert len(linear_layers(model.backbone.trunk)) == 2 * 4
    assert len(model.objective.logits) == 2 * 4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"width": 18}, r"its 18 inputs are no groups of 4; use a width of 16 or 20"),
        ({"temperature": [0.0, 1.0]}, "expected positive pairs and 0 or more"),
        ({"strength": -1.0}, "expected positive pairs and 0 or more"),
    ],
)
def test_what_no_pattern_fits_is_refused(model_of, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_of(**settings)


def test_divided_weights_are_refused(model_of):
    with pytest.raises(ConfigError, match="this objective computes with whole ones; use stage 0, 1 or 2"):
        check_model({"zero_optimization": {"stage": 3}}, model_of())
