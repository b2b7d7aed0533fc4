"""Experts divided over ranks under the real engine: the weights of undivided ones, saved for any number of ranks."""

import io
import json
import re

import pytest
import torch
from rich.console import Console
from running import close, several, weights, write_recipe
from safetensors.torch import load_file

from mmpt.config import component
from mmpt.describe import describe
from mmpt.downstream.pretrained import load_pretrained
from mmpt.errors import ConfigError
from mmpt.export.command import export
from mmpt.training.divided_experts import check_experts
from mmpt.trunk.feedforward import FeedForward

STEPS = 4
ROUTED = [
    "trunk.top_feedforward={type: routed_experts, experts: 4, modality_bias: gate_and_expert}",
    "trunk.top_layers=1",
    f"training.steps={STEPS}",
    "training.save_every=2",
    "training.log_every=1",
    "training.optimizer.clip_norm=0.1",
]
STAGE = "deepspeed.zero_optimization.stage="
DIVIDED = "training.ep_size=2"
ANY_RANKS = ["trunk.top_feedforward.dropless=true", "training.balance_weight=0"]  # nothing is of a rank's own tokens
GUIDED = [
    "objective.teacher={start: 0.8, end: 0.95, rise: 0.5, views: 2}",
    "objective.streams.image.masking.importance={type: predicted_loss, start: 0.2, end: 0.8}",
    "objective.streams.image.loss_predictor={predictor: {type: decoder, width: 16, depth: 1, heads: 2}}",
]
TWO_RANKS = {
    "whole": [f"{STAGE}2"],
    "divided1": [f"{STAGE}1", DIVIDED],
    "divided2": [f"{STAGE}2", DIVIDED],
    "free": [f"{STAGE}2", DIVIDED, "data.micro_batch_size=2", *ANY_RANKS],
    "guided": [f"{STAGE}2", *GUIDED],
    "guided_divided": [f"{STAGE}2", DIVIDED, *GUIDED],
    "bf16": [f"{STAGE}2", DIVIDED, "training.precision=bf16"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shards):
    """Folder of finished runs by two ranks, then by one: those of TWO_RANKS, and others that went on from them."""
    folder = tmp_path_factory.mktemp("divided")
    recipe = str(write_recipe(folder, shards))

    def job(name, settings, before=None):
        return [recipe, str(folder / name), [*ROUTED, *settings], str(folder / before) if before else None]

    jobs = [job(name, settings) for name, settings in TWO_RANKS.items()]
    jobs += [job("again", TWO_RANKS["divided1"], "divided1"), job("undivided", [f"{STAGE}1"], "divided1")]
    several(folder, jobs, ranks=2)
    free = [f"{STAGE}2", *ANY_RANKS]
    later = [*free, "data.micro_batch_size=2"]
    several(folder, [job("alone", free), job("alone_later", later, "free")])
    return folder


def figures(run, name):
    return [json.loads(line)[name] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("divided1", "whole"),
        ("divided2", "whole"),
        ("free", "alone"),  # two ranks and one
        ("guided_divided", "guided"),  # the averaged teacher's experts are divided too
        ("undivided", "whole"),  # gone on with
        ("alone_later", "alone"),
    ],
)
def test_divided_experts_learn_what_whole_ones_learn(runs, one, other):
    assert weights(runs / one).keys() == weights(runs / other).keys()
    assert close(weights(runs / one), weights(runs / other), tolerance=1e-5)
    assert figures(runs / one, "gradient_norm") == pytest.approx(figures(runs / other, "gradient_norm"), rel=1e-5)
    assert min(figures(runs / other, "gradient_norm")) > 0.1  # clipping scales every update


@pytest.mark.slow
def test_divided_experts_add_up_in_another_order(runs):
    """So they were divided indeed."""
    one, other = (weights(runs / run) for run in ("divided2", "whole"))
    assert any(not torch.equal(value, other[name]) for name, value in one.items() if ".experts." in name)


@pytest.mark.slow
def test_a_run_with_divided_experts_goes_on_byte_for_byte(runs):
    for name in ("model.safetensors", "optimizer.safetensors"):
        again, straight = (runs / run / "checkpoints" / f"step-{STEPS:09d}" / name for run in ("again", "divided1"))
        assert again.read_bytes() == straight.read_bytes()


@pytest.mark.slow
def test_moments_of_divided_experts_are_those_of_whole_ones(runs):
    path = f"checkpoints/step-{STEPS:09d}/optimizer.safetensors"
    one, other = (load_file(runs / run / path) for run in ("divided2", "whole"))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_checkpoint_of_divided_experts_is_one_model_with_all_of_them(runs):
    """What probes and encoders load, with neither ranks nor DeepSpeed."""
    model = load_pretrained(runs / "divided2").model
    saved = weights(runs / "divided2")
    state = model.state_dict()
    assert saved.keys() == state.keys() - {"objective.streams.text.predictor.table"}  # tied to the embedding
    assert all(torch.equal(value, state[name]) for name, value in saved.items())
    routed = model.backbone.trunk.blocks[-1].feedforward
    assert list(routed.experts) == ["0", "1", "2", "3"]
    assert routed.group is None


@pytest.mark.slow
def test_divided_experts_are_exported_whole_by_one_process(runs, tmp_path):
    """What two ranks under ZeRO 2 had divided: plain tensors, an expert's under its own name."""
    certificate = export(runs / "divided2", tmp_path / "out", to="safetensors")
    assert certificate["largest_difference"] == 0
    exported, saved = weights(tmp_path / "out"), weights(runs / "divided2")
    assert exported.keys() == {name for name in saved if name.startswith("backbone.")}
    assert all(torch.equal(value, saved[name]) for name, value in exported.items())
    experts = [name for name in exported if name.endswith("fc1.weight") and ".experts." in name]
    assert [name.split(".")[-3] for name in sorted(experts)] == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_divided_experts_learn_in_bfloat16_too(runs):
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights(runs / "bf16").values())
    norms = [figures(runs / run, "gradient_norm") for run in ("bf16", "divided2")]
    assert norms[0] != norms[1]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


# ---- what can't be divided


def routed(experts):
    return component(FeedForward, "routed_experts", experts=experts).build(8, 1)


def staged(stage):
    return {"zero_optimization": {"stage": stage}}


@pytest.mark.parametrize(
    ("ep_size", "stage", "experts", "ranks", "sentence"),
    [
        (2, 2, 4, 1, r"divisor of the number of ranks, 1, and of experts, 4, got 2; use 1$"),
        (3, 1, 8, 6, r"divisor of the number of ranks, 6, and of experts, 8, got 3; use 1, 2$"),
        (8, 1, 4, 8, r"divisor of the number of ranks, 8, and of experts, 4, got 8; use 1, 2, 4$"),
        (2, 3, 4, 2, r"ep_size: 2 needs deepspeed.zero_optimization.stage 1 or 2, got 3, which divides all weights"),
        (2, 0, 4, 2, r"ep_size: 2 needs deepspeed.zero_optimization.stage 1 or 2, got 0, which clips"),
    ],
)
def test_what_cannot_be_divided_is_refused(ep_size, stage, experts, ranks, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_experts(ep_size, staged(stage), routed(experts), ranks)


def test_a_description_counts_the_experts_that_are_elsewhere(shards, tmp_path):
    """8 experts of 2 x 128 x 4096 weights and their gradients, 4 bytes each; half of it, and biases, is spared."""
    recipe, memory = write_recipe(tmp_path, shards), []
    routed = "trunk.top_feedforward={type: routed_experts, experts: 8, ratio: 32}"
    for ep_size in (1, 2):
        console = Console(file=io.StringIO(), width=200)
        settings = ["trunk.width=128", routed, "trunk.top_layers=1", f"{STAGE}1", f"training.ep_size={ep_size}"]
        describe(recipe, settings, ranks=2, console=console)
        memory += re.findall(r"estimated: (\d+) MiB", console.file.getvalue())
    assert int(memory[0]) - int(memory[1]) == pytest.approx(32, abs=1)


def test_a_model_without_routed_experts_has_nothing_to_divide():
    dense = component(FeedForward, "dense").build(8)
    check_experts(1, staged(3), dense, 2)
    with pytest.raises(ConfigError, match="2 divides routed experts, and this model has none; use 1"):
        check_experts(2, staged(2), dense, 2)


def test_a_share_that_fits_is_taken():
    for ep_size in (1, 2, 4):
        check_experts(ep_size, staged(1), routed(8), 4)
