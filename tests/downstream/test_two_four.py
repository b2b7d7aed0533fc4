"""Sparse runs: by learned patterns, by magnitude, and what is refused."""

import json

import pytest
import torch
from walks import RECIPE as WALKS

import mmpt
from mmpt.cli import main
from mmpt.config import parse_settings
from mmpt.downstream.pretrained import load_pretrained
from mmpt.errors import ConfigError
from mmpt.objectives.learned_patterns import LearnedPatterns
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.patterns import grouped, linear_layers
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.command import build
from mmpt.training.run import prepare

RECIPE = """
run: RUN
data: SHARDS
streams: [image, text]
method: {type: two_four, batches: 2, batch_size: 8}
"""


@pytest.fixture(scope="module")
def patterned(run, shards, tmp_path_factory):
    """A run of patterns over the small run, its logits shaken."""
    head, rest = WALKS.replace("SHARDS", str(shards)).split("objective:\n")
    masked, data = rest.split("data:\n")
    own = "".join(f"  {line}\n" for line in masked.splitlines())
    text = f"init_from: {run}\n{head}objective:\n  type: learned_patterns\n  of:\n{own}data:\n{data}"
    built = build(parse_settings(text, [], Recipe), 0, 1)
    folder = tmp_path_factory.mktemp("patterns") / "run"
    prepare(folder, built.recipe, built.facts, built.sources)
    torch.manual_seed(0)
    for logits in built.model.objective.logits:
        logits.data += 0.05 * torch.randn_like(logits)
    names = {name for kind in ("parameters", "buffers") for name, _ in getattr(built.model, f"named_{kind}")()}
    weights = {name: value for name, value in built.model.state_dict().items() if name in names}
    checkpoint.commit(folder / "checkpoints", checkpoint.Saved(weights, {}, {"step": 2}))
    return folder


def recipe_of(folder, run, shards):
    path = folder / "two_four.yaml"
    path.write_text(RECIPE.replace("RUN", str(run)).replace("SHARDS", str(shards)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def sparse(patterned, shards):
    out = patterned.parent / "sparse"
    assert main(["compress", recipe_of(patterned.parent, patterned, shards), "--out", str(out)]) == 0
    return out


def test_a_run_of_patterns_begins_with_backbone_and_objective_of_the_run(run, patterned):
    before, after = load_pretrained(run).model, load_pretrained(patterned).model
    assert isinstance(after.objective, LearnedPatterns)
    for one, other in ((before.backbone, after.backbone), (before.objective, after.objective.of)):
        theirs = other.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_an_objective_of_other_parts_than_the_runs_is_refused(run, shards):
    head, rest = WALKS.replace("SHARDS", str(shards)).split("objective:\n")
    masked, data = rest.split("data:\n")
    own = "".join(f"  {line}\n" for line in masked.replace("predictor: tied", "predictor: mlp").splitlines())
    text = f"init_from: {run}\n{head}objective:\n  type: learned_patterns\n  of:\n{own}data:\n{data}"
    with pytest.raises(ConfigError, match=r"objective.of takes over all weights .* give it that run's parts"):
        build(parse_settings(text, [], Recipe), 0, 1)


def test_two_of_each_four_weights_are_left_and_those_are_the_runs_own(run, sparse):
    before, after = mmpt.load(run).backbone, mmpt.load(sparse).backbone
    dense = linear_layers(before.trunk)
    for name, layer in linear_layers(after.trunk).items():
        there = layer.weight != 0
        assert (grouped(there.float()).sum(2) == 2).all(), name
        assert torch.equal(layer.weight[there], dense[name].weight[there])
    others = {
        n: v for n, v in after.state_dict().items() if n.removeprefix("trunk.").removesuffix(".weight") not in dense
    }
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in others.items())


def test_what_comes_out_is_a_run_of_masked_prediction(sparse):
    assert isinstance(load_pretrained(sparse).model.objective, MaskedPrediction)
    told = json.loads((sparse / "compression.json").read_text(encoding="utf-8"))["method"]
    assert set(told["losses"]) == {"dense", "magnitude", "learned"}
    assert set(told["losses"]["dense"]) == {"image", "text"}
    assert 0 < told["changed"] < 1
    assert told["losses"]["learned"] != told["losses"]["magnitude"]


def test_magnitude_works_on_any_run_and_changes_what_it_says(run, shards, tmp_path):
    recipe = recipe_of(tmp_path, run, shards)
    assert main(["compress", recipe, "--out", str(tmp_path / "out"), "method.by=magnitude"]) == 0
    for name, layer in linear_layers(mmpt.load(tmp_path / "out").backbone.trunk).items():
        own = grouped(linear_layers(mmpt.load(run).backbone.trunk)[name].weight).abs()
        assert torch.equal(grouped(layer.weight).abs().sort(2).values[..., 2:], own.sort(2).values[..., 2:])


def test_learned_patterns_of_a_run_without_any_are_refused(run, shards, tmp_path, capsys):
    recipe = recipe_of(tmp_path, run, shards)
    assert main(["compress", recipe, "--out", str(tmp_path / "out")]) == 2
    assert (
        "needs a run with objective 'learned_patterns', and this one has 'masked_prediction'" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
