"""Runs of each rule: a stop changes not a bit, and moments are whole tensors by name whatever the stage."""

import io

import pytest
import torch
from rich.console import Console
from running import several, weights, write_recipe
from safetensors.torch import load_file

from mmpt.describe import describe
from mmpt.errors import ConfigError
from mmpt.training.command import pretrain

RULE = "training.optimizer.rule="
SHORT = ["training.steps=4", "training.save_every=2", "training.optimizer.schedule=constant"]
MOMENTS = {"muon": {"momentum_buffer", "exp_avg", "exp_avg_sq"}, "lion": {"exp_avg"}}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, shards):
    return str(write_recipe(tmp_path_factory.mktemp("rules"), shards))


def job(recipe, folder, name, settings, before=None):
    return [recipe, str(folder / name), [*SHORT, *settings], str(folder / before) if before else None]


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """Of each rule a finished run, and one that lost its last checkpoint and went on."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = [job(recipe, folder, rule, [f"{RULE}{rule}"]) for rule in MOMENTS]
    jobs += [job(recipe, folder, f"{rule}_again", [f"{RULE}{rule}"], rule) for rule in MOMENTS]
    several(folder, jobs)
    return folder


def moments(run):
    return load_file(max((run / "checkpoints").iterdir()) / "optimizer.safetensors")


@pytest.mark.parametrize("rule", MOMENTS)
def test_a_stop_changes_not_a_bit_of_weights_and_moments(runs, rule):
    for what in (weights, moments):
        one, other = what(runs / rule), what(runs / f"{rule}_again")
        assert list(one) == list(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("rule", MOMENTS)
def test_moments_are_saved_whole_by_name(runs, rule):
    own, saved = weights(runs / rule), moments(runs / rule)
    assert {name.rpartition(".")[2] for name in saved} == MOMENTS[rule]
    assert all(value.shape == own[name.rpartition(".")[0]].shape for name, value in saved.items())
    assert all(value.any() for name, value in saved.items() if name.endswith("qkv.weight.momentum_buffer"))


@pytest.fixture(scope="module")
def divided(recipe, tmp_path_factory):
    """On two ranks: Lion at every stage and gone on with, and Muon."""
    folder = tmp_path_factory.mktemp("divided")
    stages = {stage: [f"{RULE}lion", f"deepspeed.zero_optimization.stage={stage}"] for stage in range(4)}
    jobs = [job(recipe, folder, str(stage), settings) for stage, settings in stages.items()]
    jobs += [job(recipe, folder, f"{stage}_again", stages[stage], str(stage)) for stage in (1, 2, 3)]
    several(folder, [*jobs, job(recipe, folder, "muon", [f"{RULE}muon"])], ranks=2)
    return folder


@pytest.mark.slow
def test_lion_learns_the_same_under_every_stage_and_goes_on_bit_for_bit(divided):
    whole = weights(divided / "0")
    for stage in (1, 2, 3):
        one, other = (weights(divided / name) for name in (str(stage), f"{stage}_again"))
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert moments(divided / str(stage)).keys() == moments(divided / "0").keys()
        apart = torch.cat([(value - whole[name]).abs().flatten() > 1e-4 for name, value in one.items()])
        assert apart.float().mean() < 0.02  # a sign turns where a gradient is rounding noise


@pytest.mark.slow
def test_muon_on_two_ranks_learns_what_one_process_learns(runs, divided):
    one, two = (moments(folder / "muon") for folder in (runs, divided))
    buffers = [name for name in one if name.endswith("momentum_buffer")]
    assert buffers
    assert all((one[name] - two[name]).norm() < 5e-3 * one[name].norm() for name in buffers)
    before = load_file(runs / "muon" / "checkpoints" / "step-000000002" / "model.safetensors")
    after, other = (weights(folder / "muon") for folder in (runs, divided))
    for name in (buffer.removesuffix(".momentum_buffer") for buffer in buffers):
        # made orthogonal in bfloat16, which makes much of directions that are all but rounding
        assert (other[name] - after[name]).norm() < 0.15 * (after[name] - before[name]).norm()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_muon_under_zero_is_refused_before_anything_is_written(recipe, tmp_path, stage):
    with pytest.raises(ConfigError, match=f"stage {stage} leaves .* use stage 0, or the rule adamw or lion"):
        pretrain(recipe, f"{RULE}muon", f"deepspeed.zero_optimization.stage={stage}", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_describe_shows_which_weights_go_to_which_update(recipe):
    shown = io.StringIO()
    describe(recipe, [f"{RULE}muon"], ranks=1, console=Console(file=shown, width=400))
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.getvalue().splitlines()]
    by = {(row[0], row[1]): row[3] for row in rows if len(row) == 4}
    assert "backbone.trunk.blocks.*.attention.qkv.weight" in by["muon", "0.05"]
    assert "backbone.trunk.stream_embedding.weight" in by["adamw", "0.05"]
    assert "backbone.trunk.blocks.*.attention.qkv.bias" in by["adamw", "0"]
