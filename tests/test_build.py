"""From settings to parts: what several sources of one run come to."""

import numpy as np
import pytest
import torch
from running import build_small_shards, write_recipe

from mmpt.build import load_weights, source_weights
from mmpt.config import load_settings
from mmpt.errors import CheckpointError, ConfigError
from mmpt.settings import Recipe
from mmpt.training.command import build


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    return write_recipe(folder, build_small_shards(folder))


def built(recipe, *overrides):
    return build(load_settings(recipe, list(overrides), Recipe), 0, 1)


def shares(found):
    weights = np.array(source_weights(found.recipe, found.sources))
    return weights / weights.sum()


def test_without_a_temperature_weights_are_shares(recipe):
    assert shares(built(recipe)).tolist() == [0.5, 0.25, 0.25]


def test_at_temperature_one_sources_are_drawn_in_proportion_to_their_tokens(recipe):
    found = built(recipe, "data.temperature=1", "data.sources.prose.weight=1")
    tokens = np.array([source.tokens_per_epoch for source in found.sources])
    assert shares(found) == pytest.approx(tokens / tokens.sum())


def test_a_high_temperature_lifts_what_is_rare_and_it_never_starves(recipe):
    rare = ["data.sources.prose.weight=1000", "training.steps=400"]
    cold, warm = (built(recipe, *rare, f"data.temperature={value}") for value in (1, 100))
    assert shares(warm)[1] > shares(cold)[1]
    counts = np.bincount(built(recipe, "data.sources.prose.weight=100", "training.steps=400").batches.chosen)
    assert (counts >= 3).all()


def test_a_temperature_has_to_be_positive(recipe):
    with pytest.raises(ConfigError, match="temperature: expected a positive number, got 0"):
        built(recipe, "data.temperature=0.0")


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"1.bias": torch.ones(4)}, r"'1\.bias' have shape \(4,\) in the checkpoint and \(3,\)"),
        ({}, "no weights '1.bias'"),
    ],
)
def test_weights_that_fit_in_part_change_nothing(last, said):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = {name: value + 1 for name, value in before.items() if name != "1.bias"} | last
    with pytest.raises(CheckpointError, match=said):
        load_weights(model, given)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
