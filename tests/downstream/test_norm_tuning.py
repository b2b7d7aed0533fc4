"""Norms alone: how many numbers are trained, what else may be, adapters, and norms folded into the layers behind."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from walks import RECIPE, make_run, unfitted

import mmpt
from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.finetune import Classifier, load_adapter, save_adapter
from mmpt.finetune.model import plain_model
from mmpt.finetune.strategies import Strategy


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def fitted(encoder, shards, **settings):
    task = Classifier(encoder, label="place", inputs=["image"])
    return task.fit(shards, strategy=component(Strategy, "norm_only", **settings), epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def plain(encoder, shards):
    return fitted(encoder, shards)


def norms_of(backbone):
    """Of the trunk and of the encoder in use."""
    named = backbone.named_modules()
    return {name: own for name, own in named if isinstance(own, nn.LayerNorm) and not name.startswith("encoders.text")}


def moved(encoder, result):
    before = dict(encoder.backbone.named_parameters())
    after = result.task.model.backbone.named_parameters()
    return {name for name, own in after if not torch.equal(own, before[name])}


EXTRAS = [(), ("encoders",), ("stream_embedding",), ("encoders", "stream_embedding")]
PLACES = {"encoders": "encoders.image.", "stream_embedding": "trunk.stream_embedding."}


@pytest.mark.parametrize("extras", EXTRAS)
def test_two_numbers_a_column_of_each_norm_are_trained_and_the_declared_extras(encoder, shards, plain, extras):
    result = fitted(encoder, shards, extras=list(extras)) if extras else plain
    norms = norms_of(encoder.backbone)
    wanted = {f"{name}.{part}" for name in norms for part in ("weight", "bias")}
    besides = {
        name: own.numel()
        for name, own in encoder.backbone.named_parameters()
        if any(name.startswith(PLACES[extra]) for extra in extras) and name not in wanted
    }
    head = sum(own.numel() for own in result.task.model.objective.parameters())
    assert result.trained == 2 * encoder.width * len(norms) + sum(besides.values()) + head
    found = moved(encoder, result)
    assert wanted <= found <= wanted | set(besides)
    assert all(any(name.startswith(PLACES[extra]) for name in found - wanted) for extra in extras)


def test_norms_of_a_stream_that_the_task_does_not_look_at_stay(encoder):
    model, _ = unfitted(encoder)
    unused = nn.LayerNorm(encoder.width).requires_grad_(False)  # as the encoders of speech have one
    model.backbone.encoder("text").add_module("norm", unused)
    component(Strategy, "norm_only", extras=["encoders"]).build().prepare(model, encoder)
    trained = {name for name, own in model.backbone.named_parameters() if own.requires_grad}
    assert {f"{name}.weight" for name in norms_of(encoder.backbone)} <= trained
    assert not any(name.startswith("encoders.text.") for name in trained)


def test_an_adapter_of_norms_is_two_vectors_each(encoder, plain, tmp_path):
    file = save_adapter(plain.task, tmp_path / "norms")
    own = {name: value.shape for name, value in load_file(file).items() if name.startswith("backbone.")}
    wanted = [f"backbone.{name}.{part}" for name in norms_of(encoder.backbone) for part in ("weight", "bias")]
    assert own == dict.fromkeys(wanted, (encoder.width,))
    again, whole = load_adapter(file, encoder).model.state_dict(), plain.task.model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


EXPERTS = RECIPE.replace("drop_path: 0.2", "drop_path: 0.2, feedforward: FEEDFORWARD")


@pytest.mark.parametrize("feedforward", ["dense", "modality_experts"])
def test_folded_norms_compute_the_same(shards, tmp_path, feedforward):
    run = make_run(tmp_path / "run", shards, text=EXPERTS.replace("FEEDFORWARD", feedforward))
    encoder = mmpt.load(run)
    model, batch = unfitted(encoder, inputs=("image", "text"))
    strategy = component(Strategy, "norm_only", fold=True).build()
    strategy.prepare(model, encoder)
    model.eval().double()
    content = {name: own._replace(values=own.values.double()) if own.values.is_floating_point() else own
               for name, own in batch.streams.items()}  # fmt: skip
    batch = batch._replace(streams=content)
    with torch.no_grad():
        for norm in norms_of(model.backbone).values():
            norm.weight.normal_(1.0, 0.5)
            norm.bias.normal_(0.0, 0.5)
        before = model.backbone(batch)
        weights = {name: own.clone() for name, own in model.backbone.state_dict().items()}
        strategy.finish(model)
        after = model.backbone(batch)
    for name, tokens in before.items():
        assert tokens.x.dtype == torch.float64
        assert (after[name].x - tokens.x).abs().max() < 1e-6
    for name, own in norms_of(model.backbone.trunk).items():
        if name.startswith("blocks."):
            assert (own.weight == 1).all()
            assert (own.bias == 0).all()
    changed = {name for name, own in model.backbone.state_dict().items() if not torch.equal(own, weights[name])}
    assert any(name.endswith("attention.qkv.weight") for name in changed)
    assert all(name.startswith("trunk.blocks.") for name in changed)


def test_a_folded_fit_says_what_the_other_says(encoder, shards, plain):
    samples = [{"image": torch.randint(0, 255, (18, 22, 3), dtype=torch.uint8).numpy()} for _ in range(5)]
    folded = fitted(encoder, shards, fold=True).task
    assert torch.equal(folded.model.backbone.trunk.blocks[0].norm1.weight, torch.ones(encoder.width))
    one, other = (torch.from_numpy(task.predict_scores(samples)) for task in (plain.task, folded))
    assert (one - other).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("trunk", "settings", "sentence"),
    [
        ("drop_path: 0.2, norm: post", {"fold": True}, "fold: needs blocks whose norms stand in front"),
        ("feedforward: routed_experts", {"fold": True}, "fold: RoutedExperts does more with a norm's output"),
    ],
)
def test_norms_that_can_not_be_folded_are_refused_before_anything_is_trained(
    shards, tmp_path, trunk, settings, sentence
):
    encoder = mmpt.load(make_run(tmp_path / "run", shards, text=RECIPE.replace("drop_path: 0.2", trunk)))
    with pytest.raises(ConfigError, match=sentence):
        Classifier(encoder, label="place").fit(shards, strategy=component(Strategy, "norm_only", **settings))


def test_extras_that_are_not_there_are_refused(tone_run):
    one_stream = mmpt.load(tone_run)
    task = Classifier(one_stream, label="voice")
    task.facts = {"classes": ["one", "two"], "counts": [1, 1]}
    strategy = component(Strategy, "norm_only", extras=["stream_embedding"])
    with pytest.raises(ConfigError, match="extras: 'stream_embedding' has no weights here; leave it out"):
        strategy.build().prepare(plain_model(task), one_stream)
