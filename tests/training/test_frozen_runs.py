"""Other runs that a recipe looks at: found, finished, fitting, and the same when the run goes on."""

import json

import pytest
import torch

from mmpt.build import build_backbone, build_modalities, build_model, parameter_counts, save_facts
from mmpt.config import dump_yaml, parse_settings
from mmpt.encoders import Facts
from mmpt.errors import ConfigError
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.frozen_runs import fingerprints, load_frozen
from mmpt.training.run import prepare

PICTURES = """
streams:
  image: {type: image, size: 16, patch: 4}
trunk: {type: transformer, width: 16, depth: 2, heads: 2}
objective: OBJECTIVE
data:
  sources:
    pictures: {shards: nowhere, streams: [image]}
  batch_size: 4
training:
  steps: 3
  optimizer: {learning_rate: 1e-3}
"""
PIXELS = """
  type: masked_prediction
  streams:
    image: {masking: {ratio: 0.5}, corruption: replace, predictor: mlp, target: pixels}
"""


def recipe_of(objective, *overrides):
    return parse_settings(PICTURES.replace("OBJECTIVE", objective), list(overrides), Recipe)


@pytest.fixture
def facts(tmp_path):
    return {"image": Facts(tmp_path, {}, {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)})}


@pytest.fixture
def teacher(tmp_path, facts):
    """`teacher(step)`: a run folder of masked prediction that has come so far."""

    def make(step, *overrides, seed=7):
        recipe, run = recipe_of(PIXELS, f"training.seed={seed}", *overrides), tmp_path / "teacher"
        run.mkdir(exist_ok=True)
        save_facts(run, facts)
        (run / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
        if step:
            weights = build_model(recipe, build_modalities(recipe.streams, facts)).state_dict()
            checkpoint.commit(run / "checkpoints", checkpoint.Saved(weights, {}, {"step": step}))
        return run

    return make


@pytest.fixture
def model_of(tmp_path, facts):
    def make(*overrides):
        recipe = recipe_of(f"{{type: maskembed, heads: 2, run: {tmp_path / 'teacher'}}}", *overrides)
        return build_model(recipe, build_modalities(recipe.streams, facts))

    return make


def test_a_run_is_held_beside_a_model_and_changes_none_of_its_weights(teacher, model_of, facts, tmp_path):
    teacher(3)
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_frozen(model)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    recipe, held = recipe_of(PIXELS, "training.seed=7"), model.objective.teacher.model.backbone
    theirs = build_backbone(recipe, build_modalities(recipe.streams, facts)).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in held.state_dict().items())
    assert len(held.trunk.blocks) == 1
    counts = parameter_counts(model)
    assert counts[f"{tmp_path / 'teacher'} (frozen, not saved)"] == model.objective.teacher.size > 0
    assert counts["all"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("step", "other", "sentence"),
    [
        (None, (), "there is no recipe.yaml, so this is not a run folder"),
        (0, (), "expected a finished run, and it has no checkpoint yet"),
        (2, (), "expected a finished run, and it is at step 2 of 3"),
        (3, ("trunk.width=32",), "expected a trunk of width 32 and more than 1 blocks, got width 16 and depth 2; give"),
        (3, ("trunk.depth=3", "objective.skip_blocks=2"), "and more than 2 blocks, got width 16 and depth 2; give the"),
    ],
)
def test_a_run_that_can_not_be_used_is_refused(teacher, model_of, step, other, sentence):
    if step is not None:
        teacher(step)
    with pytest.raises(ConfigError, match=sentence):
        load_frozen(model_of(*other))


def test_a_damaged_run_is_refused(teacher, model_of):
    file = teacher(3) / "checkpoints" / "step-000000003" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match="the contents differ from what was saved"):
        load_frozen(model_of())


def test_a_run_does_not_go_on_with_another_teacher(teacher, model_of, facts, tmp_path):
    run, recipe = tmp_path / "student", recipe_of("{type: maskembed, heads: 2, run: teacher}")

    def prepared():
        model = model_of()
        load_frozen(model)
        prepare(run, recipe, facts, [], fingerprints(model))

    folder = teacher(3)
    prepared()
    assert list(json.loads((run / "frozen.json").read_text(encoding="utf-8"))) == [str(folder)]
    checkpoint.commit(run / "checkpoints", checkpoint.Saved({"w": torch.ones(1)}, {}, {"step": 1}))
    prepared()
    (folder / "checkpoints" / "step-000000003").rename(folder / "moved")
    teacher(3, seed=8)
    with pytest.raises(ConfigError, match=r"the weights of .*teacher are not the ones this run began with"):
        prepared()
