"""Experts inside the whole model: what a batch of one stream moves, that the model learns, and the real engine."""

import json
import re
import shutil

import pytest
import torch
from running import build_small_shards, close, mmpt, weights, write_recipe

from mmpt.config import component
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.tokens import Content

ROUTED = {"type": "routed_experts", "experts": 4, "capacity_factor": 1.5}
HARD = {"feedforward": "modality_experts", "top_feedforward": ROUTED, "top_layers": 1}
STREAMS = {
    "text": {"masking": {"ratio": 0.5}, "corruption": "replace", "predictor": "tied", "target": "token_ids"},
    "image": {
        "masking": {"ratio": 0.75},
        "corruption": "drop",
        "predictor": {"type": "decoder", "width": 16, "depth": 1, "heads": 2},
        "target": "pixels",
    },
}


@pytest.fixture
def model(modalities, backbone_of):
    chosen = {name: modalities[name] for name in STREAMS}
    backbone = backbone_of(chosen, **HARD)
    return MaskedModel(
        backbone, component(Objective, "masked_prediction", streams=STREAMS).build(backbone, chosen)
    ).train()


@pytest.fixture
def joint(contents, batch_of):
    """Five rows of pictures with captions, one of them absent from both streams."""
    text, image = (Content(*(t[:5] for t in contents(name)[:5])) for name in ("text", "image"))
    return batch_of(text=text, image=image)


def total_of(model, batch):
    hidden = model.hide(batch, 0.5)
    step = model(batch, hidden, 0.5)
    losses = [loss.total / hidden[name].denominator.clamp(min=1) for name, loss in step.losses.items()]
    return torch.stack(losses).sum() + 0.001 * step.balance + 0.001 * step.router_z, step


@pytest.mark.parametrize(("present", "absent"), [("text", 1), ("image", 0)])
def test_a_batch_of_one_stream_leaves_the_others_expert_gradients_of_zero(model, joint, present, absent):
    names = list(STREAMS)
    total_of(model, joint._replace(streams={present: joint.streams[present]}))[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    hard = model.backbone.trunk.blocks[0].feedforward.experts
    assert names[absent] != present
    assert all((p.grad == 0).all() for p in hard[absent].parameters())
    assert all((p.grad != 0).any() for p in hard[1 - absent].parameters())


def test_a_model_with_both_kinds_of_experts_learns(model, joint):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        total, step = total_of(model, joint)
        total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[-1] < 0.95 * losses[0]
    loads = {name.rsplit("/", 1)[1] for name in step.metrics if name.startswith("experts/load/2/")}
    assert loads == set(STREAMS)


def test_padding_is_in_no_figure_of_the_experts(model, joint):
    _, step = total_of(model, joint)
    hidden = model.hide(joint, 0.5)["image"].hidden
    shown = {"image": (joint.streams["image"].valid & ~hidden).sum(), "text": joint.streams["text"].valid.sum()}
    for stream, tokens in shown.items():
        assert step.metrics[f"experts/entropy/2/{stream}"][1] == tokens
        assert step.metrics[f"experts/dropped/2/{stream}"][1] == 2 * tokens


# ---- the real engine


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    return write_recipe(folder, build_small_shards(folder))


SETTINGS = [
    "trunk.feedforward=modality_experts",
    "trunk.top_feedforward={type: routed_experts, experts: 4}",
    "trunk.top_layers=1",
    "training.router_z_weight=0.001",
]


def figures(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_zero_stages_learn_the_same_and_the_log_has_the_experts(recipe, tmp_path):
    for stage in (0, 2):
        run = tmp_path / f"zero{stage}"
        done = mmpt("pretrain", recipe, "--out", run, *SETTINGS, f"deepspeed.zero_optimization.stage={stage}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(
            r"experts: dropped 0\.\d\d  entropy .* most 1\.\d\d \(block 2, expert \d\)  least", done.stdout
        )
        assert stage == 0 or close(weights(tmp_path / "zero0"), weights(run))
    for line in figures(tmp_path / "zero0"):
        assert 0 <= line["experts/dropped"] < 1
        assert 0 < line["experts/entropy"] <= 1
        assert line["experts/balance"] >= 0.9
        assert line["experts/load_min"] <= 1 <= line["experts/load_max"]
        assert {"experts/text/load_max", "experts/image/load_max", "experts/stream_information"} <= set(line)
        assert not any(name.startswith("experts/load/") for name in line)
        assert line["experts"].keys() == {"2"}  # the block that routes
        assert line["experts"]["2"].keys() == {"text", "image"}
        for own in line["experts"]["2"].values():
            assert sum(own["load"]) == pytest.approx(4, abs=1e-3)
            assert 0 <= own["dropped"] < 1
            assert 0 < own["entropy"] <= 1
    assert "<h2>Experts</h2>" in (tmp_path / "zero0" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_balance_weight_evens_the_loads(recipe, tmp_path):
    balance = {}
    for weight in (0, 30):
        run, settings = tmp_path / str(weight), ["training.steps=24", f"training.balance_weight={weight}"]
        done = mmpt("pretrain", recipe, "--out", run, *SETTINGS, *settings)
        assert done.returncode == 0, done.stderr
        balance[weight] = figures(run)[-1]["experts/balance"]
    assert balance[30] < balance[0] - 0.02


@pytest.mark.slow
def test_a_run_that_goes_on_comes_to_the_same_weights(recipe, tmp_path):
    """Noise and queues are functions of the step alone."""
    run = tmp_path / "run"
    done = mmpt("pretrain", recipe, "--out", run, *SETTINGS)
    assert done.returncode == 0, done.stderr
    whole = weights(run)
    shutil.rmtree(run / "checkpoints" / "step-000000012")
    done = mmpt("pretrain", recipe, "--out", run, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert "going on from step 8" in done.stdout
    assert all(torch.equal(value, whole[name]) for name, value in weights(run).items())
