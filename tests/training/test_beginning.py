"""`init_from`: what a run begins with, what stays fresh, and what is refused before anything has changed."""

import json
import shutil
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mmpt.build import build_backbone, build_modalities, build_model, build_sources, facts_of, save_facts
from mmpt.config import dump_yaml, parse_settings
from mmpt.data.tokenizer import train_tokenizer
from mmpt.data.writer import ShardWriter
from mmpt.errors import CheckpointError, ConfigError
from mmpt.settings import Recipe
from mmpt.tokens import Batch
from mmpt.training import checkpoint, command
from mmpt.training.beginning import Beginning, told
from mmpt.training.run import prepare
from tests.downstream.walks import RECIPE, make_run, walk
from tests.foreign.models import loaded, made, shaken

POST = ("trunk.width=24", "trunk.heads=3", "trunk.feedforward={type: dense, ratio: 2.0}", "trunk.norm_eps=1e-12")
BERT = (*POST, "trunk.norm=post", "trunk.norm_entry=true")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Texts and pictures."""
    folder = tmp_path_factory.mktemp("begin")
    words = ["the old grey morning path wind under over wave sail anchor harbour stone heather sheep ridge"]
    train_tokenizer(words, folder / "own", vocabulary=300, algorithm="bpe")
    train_tokenizer(words, folder / "other", vocabulary=310, algorithm="wordpiece")
    with ShardWriter(
        folder / "walks", {"image": "png", "text": "txt", "labels": "json"}, tokenizer=folder / "own"
    ) as out:
        for number in range(20):
            out.write(walk(number))
    return folder / "walks"


@pytest.fixture(scope="module")
def run(shards):
    return make_run(shards.parent / "run", shards)


@pytest.fixture(scope="module")
def bert(shards):
    folder = shards.parent / "bert"
    made("bert with a head", folder, shards.parent / "own", intermediate_size=48)
    return folder


def recipe_of(shards, *overrides) -> Any:
    return parse_settings(RECIPE.replace("SHARDS", str(shards)), list(overrides), Recipe)


def begun(shards, *overrides, **options) -> Any:
    return command.build(recipe_of(shards, *overrides), 0, 1, **options)


def partial(folder, **others):
    plain = {"path": str(folder), "partial": True, **others}
    return f"init_from={json.dumps(plain)}"


def alone(backbone, modalities, stream, raw):
    """Latents of one sample of one stream."""
    modality = modalities[stream]
    content = modality.collate([[modality.read(modality.convert(raw), 0, modality.limit, None)]], None)
    nothing = torch.zeros(1, dtype=torch.int64)
    return backbone.eval()(Batch({stream: content}, nothing, nothing, "tests", 0))[stream].x


def modalities_of(recipe):
    return build_modalities(recipe.streams, facts_of(recipe))


# ---- a run


def test_a_run_of_the_same_recipe_is_taken_whole_with_its_heads(shards, run):
    built = begun(shards, f"init_from={run}")
    saved = checkpoint.load(run / "checkpoints" / "step-000000002", moments=False).weights
    parameters = dict(built.model.named_parameters())
    assert all(torch.equal(parameters[name], saved[name]) for name in parameters)
    assert built.origin.fresh == ()
    assert (built.origin.kind, built.origin.step) == ("run of mmpt", 2)


def test_a_checkpoint_of_a_run_says_its_own_step(shards, run):
    path = run / "checkpoints" / "step-000000001"
    ours, theirs = begun(shards, f"init_from={path}").model.backbone, loaded(run, step=1).backbone
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())
    assert torch.equal(loaded(path).backbone.trunk.norm.weight, theirs.trunk.norm.weight)
    with pytest.raises(CheckpointError, match="is the checkpoint of step 1, and step 2 was asked for"):
        loaded(path, step=2)


def test_streams_find_their_own_in_another_order_and_experts_follow_them(shards, tmp_path):
    experts = "trunk.feedforward=modality_experts"
    recipe = recipe_of(shards, experts)
    model = shaken(build_model(recipe, modalities_of(recipe)))
    save_facts_and(tmp_path / "run", recipe, model)
    turned = recipe_of(shards, experts, f"init_from={tmp_path / 'run'}")
    object.__setattr__(turned, "streams", dict(reversed(turned.streams.items())))
    built = command.build(turned, 0, 1)
    assert list(built.model.backbone.numbers) == ["image", "text"]
    for stream, raw in (("text", "the old path"), ("image", walk(1)["image"])):
        own, other = (alone(m.backbone, modalities_of(recipe), stream, raw) for m in (built.model, model))
        assert_close(own, other, rtol=0, atol=1e-6)


def save_facts_and(folder, recipe, model):
    folder.mkdir()
    save_facts(folder, facts_of(recipe))
    (folder / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    weights = {name: value.detach().contiguous() for name, value in model.named_parameters()}
    checkpoint.commit(folder / "checkpoints", checkpoint.Saved(weights | buffers_of(model), {}, {"step": 1}))


def buffers_of(model):
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: value for name, value in model.state_dict().items() if name not in every}


def test_a_teacher_is_a_copy_of_what_the_run_begins_with(shards, run):
    target = "objective.streams.image.target={type: teacher_latents, layers: 1}"
    others = ("objective.streams.image.corruption=replace", "objective.streams.image.predictor=mlp")
    model = begun(shards, f"init_from={run}", target, *others, "objective.teacher={}").model
    copies = {n: v for n, v in model.objective.named_parameters() if ".average.backbone." in n}
    own = dict(model.backbone.named_parameters())
    assert copies
    assert all(torch.equal(value, own[name.partition(".average.backbone.")[2]]) for name, value in copies.items())


# ---- another library's model


def test_bert_begins_one_of_two_streams_with_its_head_and_mask_vector(shards, bert):
    with pytest.raises(ConfigError, match="has no weights for image; to begin there with fresh ones say init_from: "):
        begun(shards, f"init_from={bert}", *BERT)
    built = begun(shards, partial(bert), *BERT)
    theirs = loaded(bert)
    raw = "the old grey path over the ridge"
    ours = alone(built.model.backbone, modalities_of(built.recipe), "text", raw)
    wanted = alone(theirs.backbone, {"text": built_text(built)}, "text", raw)
    assert_close(ours, wanted, rtol=0, atol=1e-5)
    part = built.model.objective.streams["text"]
    table, mask = theirs.backbone.encoders["text"].embedding.weight, theirs.modalities["text"].special("mask")
    assert torch.equal(part.corruption.vector, table[mask])
    assert "objective.streams.text.predictor.dense.weight" in built.origin.loaded
    assert all(".image." in name for name in built.origin.fresh)
    assert any("positions of" in line for line in told(built.origin))  # 24 of 40 positions
    assert "begins anew: encoders.image, objective.streams.image" in "\n".join(told(built.origin))


def built_text(built):
    return modalities_of(built.recipe)["text"]


def test_a_trunk_of_another_kind_is_refused_with_what_to_set(shards, bert):
    with pytest.raises(ConfigError) as refused:
        begun(shards, partial(bert))
    for setting in (
        "trunk.width=24",
        "trunk.heads=3",
        "trunk.norm=post",
        "trunk.norm_entry=true",
        "trunk.norm_eps=1e-12",
    ):
        assert setting in str(refused.value)


def test_shards_with_another_tokenizer_are_refused(shards, tmp_path):
    made("bert", tmp_path, shards.parent / "other", intermediate_size=48)
    with pytest.raises(ConfigError, match=r"streams\.text: the shards were built with another tokenizer .*--tokenizer"):
        begun(shards, partial(tmp_path), *BERT)


def test_positions_of_a_picture_are_interpolated_or_have_to_be_learned(shards, tmp_path):
    made("vit", tmp_path / "vit", intermediate_size=48)
    made("vit_mae", tmp_path / "mae", intermediate_size=48)
    larger = begun(shards, partial(tmp_path / "vit"), *POST, "streams.image.positions=learned", "streams.image.size=24")
    assert "4 x 4 positions" in larger.origin.notices[-1]
    with pytest.raises(ConfigError, match=r"streams\.image\.positions: .* has learned ones, the recipe a fixed table"):
        begun(shards, partial(tmp_path / "vit"), *POST)
    fixed = begun(shards, partial(tmp_path / "mae"), *POST)  # whose table is the fixed one
    raw = walk(1)["image"]
    ours = alone(fixed.model.backbone, modalities_of(fixed.recipe), "image", raw)
    theirs = loaded(tmp_path / "mae")
    assert_close(ours, alone(theirs.backbone, theirs.modalities, "image", raw), rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match=r"streams\.image\.patch: 8 here and 4 in"):
        begun(shards, partial(tmp_path / "mae"), *POST, "streams.image.patch=8")


# ---- refusals


def test_nothing_changes_where_a_tensor_does_not_fit(shards, run):
    recipe = recipe_of(shards, f"init_from={run}")
    modalities = modalities_of(recipe)
    backbone = build_backbone(recipe, modalities)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    beginning = Beginning(recipe, recipe.beginning, modalities)
    beginning.donor.weights["backbone.encoders.image.projection.bias"] = torch.ones(5)
    with pytest.raises(
        ConfigError, match=r"'backbone\.encoders\.image\.projection\.bias' have shape \(5,\) .* and \(16,\)"
    ):
        beginning.fill(backbone)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"path": "nowhere"}, "there is no recipe.yaml, so this is not a run folder"),
        ({"path": "RUN", "step": 7}, "no checkpoint of step 7; there are 1, 2"),
        ({"path": "RUN", "streams": {"txt": "text"}}, "expected streams of this recipe (text, image)"),
        ({"path": "RUN", "streams": {"text": "image"}, "partial": True}, "streams.text: is text here and image in"),
        ({"path": "BERT", "step": 1, "partial": True}, "is no run of mmpt and has no steps"),
    ],
)
def test_what_can_not_be_begun_with_is_refused(shards, run, bert, given, sentence):
    given = {**given, "path": {"RUN": str(run), "BERT": str(bert)}.get(given["path"], given["path"])}
    with pytest.raises((ConfigError, CheckpointError)) as refused:
        begun(shards, f"init_from={json.dumps(given)}")
    assert sentence in str(refused.value)


# ---- the run folder


def test_a_run_that_goes_on_does_not_read_it_again(shards, run, tmp_path):
    shutil.copytree(run, tmp_path / "donor")
    override = f"init_from={tmp_path / 'donor'}"
    assert begun(shards, override).origin is not None
    shutil.rmtree(tmp_path / "donor")
    assert begun(shards, override, going_on=True).origin is None
    with pytest.raises(CheckpointError, match="this is not a run folder"):
        begun(shards, override)


def test_a_run_from_before_a_setting_was_there_goes_on(shards, run):
    recipe = recipe_of(shards)
    file = run / "recipe.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("  norm: pre\n", "").replace("init_from: null\n", ""), encoding="utf-8")
    assert file.read_text(encoding="utf-8") != text
    prepare(run, recipe, facts_of(recipe), build_sources(recipe, modalities_of(recipe)))
    other = recipe_of(shards, "trunk.norm=post")
    with pytest.raises(ConfigError, match=r"holds a run of another recipe"):
        prepare(run, other, facts_of(other), build_sources(other, modalities_of(other)))
