"""Folders as they lie about: in parts, with old names, broken, of a kind that can't be held; one sentence each."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmpt.cli import main
from mmpt.errors import CheckpointError, ConfigError
from tests.foreign.models import loaded, made, rewritten

QUERY = "encoder.layer.1.attention.attention.query.weight"


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit") / "whole"
    made("vit", folder)
    return folder


@pytest.fixture
def copy(vit, tmp_path):
    return shutil.copytree(vit, tmp_path / "copy")


def same(one, other):
    mine, theirs = (loaded(folder).backbone.state_dict() for folder in (one, other))
    return all(torch.equal(theirs[name], value) for name, value in mine.items())


def test_what_was_loaded_and_what_was_left_is_on_record(vit):
    origin = loaded(vit).origin
    assert origin.left == ("pooler.dense.bias", "pooler.dense.weight")
    assert "backbone.trunk.blocks.1.attention.qkv.weight" in origin.loaded
    assert (origin.kind, origin.fresh, len(origin.sha256["model.safetensors"])) == ("ViT", (), 64)


def test_weights_in_several_files_are_the_same(vit, copy):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    places = {name: f"model-0000{1 + (number > 9)}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == file}, copy / file)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    assert same(vit, copy)
    assert len(loaded(copy).origin.sha256) == 2
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: missing, or not a whole"):
        loaded(copy)


def test_names_of_earlier_versions_are_understood(tmp_path, tokenizers):
    for name, renamed in (
        ("bert", {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}),
        (
            "hubert base",
            {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"},
        ),
    ):
        new, old = tmp_path / name, tmp_path / f"old {name}"
        made(name, new, tokenizers(name))
        shutil.copytree(new, old)
        for today, before in renamed.items():
            rewritten(old, lambda weights, a=today, b=before: {n.replace(a, b): v for n, v in weights.items()})
        assert load_file(old / "model.safetensors").keys() != load_file(new / "model.safetensors").keys()
        assert same(new, old)


def test_untrained_is_the_same_shape_with_fresh_weights(vit):
    trained, fresh = (loaded(vit, untrained=on) for on in (False, True))
    assert fresh.origin is None
    assert not torch.equal(trained.backbone.trunk.blocks[0].norm1.weight, fresh.backbone.trunk.blocks[0].norm1.weight)


def test_pickled_weights_are_never_read_and_the_sentence_says_how_to_convert_them(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"has weights in pytorch_model\.bin .* mmpt never does; .*save_pretrained"
    ):
        loaded(copy)


SHAPES = "have shape {}, and the model's settings ask for {}"


def without(weights):
    return {name: value for name, value in weights.items() if name != QUERY}


@pytest.mark.parametrize(
    ("change", "config", "sentence"),
    [
        (without, {}, f"lacks the weights '{QUERY}' of a ViT; nothing was loaded"),
        (lambda w: w | {"layer.lora": torch.ones(1)}, {}, "'layer.lora' that a backbone has no place for"),
        (lambda w: w | {QUERY: torch.ones(24, 16)}, {}, f"'{QUERY}' {SHAPES.format((24, 16), (24, 24))}"),
        (None, {"image_size": 24}, f"position_embeddings' {SHAPES.format((1, 17, 24), (1, 37, 24))}"),
        (None, {"num_hidden_layers": 1}, "has the weights 'encoder.layer.1."),
        (None, {"hidden_act": "relu"}, "hidden_act is 'relu', and a backbone has only 'gelu'"),
        (None, {"qkv_bias": False}, "qkv_bias is false, and a backbone has only true"),
        (None, {"image_size": [16, 24]}, "an image stream is square, and this is"),
        (None, {"hidden_size": "24"}, "hidden_size: expected int, got '24'"),
        (None, {"num_attention_heads": 5}, "width 24 can't be shared by 5 heads"),
        (None, {"model_type": "gpt2"}, "model_type 'gpt2' can't be a backbone of mmpt; those that can are bert, "),
        (None, {"model_type": None}, "has no model_type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_that_can_not_be_held_is_refused_by_name(copy, change, config, sentence):
    if change:
        rewritten(copy, change)
    plain = json.loads((copy / "config.json").read_text(encoding="utf-8")) | config
    (copy / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises((CheckpointError, ConfigError)) as refused:
        loaded(copy)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("harm", ["cut", "config", "no config", "no weights"])
def test_a_broken_folder_is_one_sentence_and_exit_code_2_and_nothing_is_written(copy, tmp_path, capsys, harm):
    if harm == "cut":
        whole = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    elif harm == "config":
        (copy / "config.json").write_text("{", encoding="utf-8")
    else:
        (copy / ("config.json" if harm == "no config" else "model.safetensors")).unlink()
    before = sorted(path.name for path in copy.iterdir())
    assert main(["export", str(copy), "--to", "safetensors", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mmpt: {copy}")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in copy.iterdir()) == before


def test_a_text_model_needs_a_tokenizer_that_is_its_own(tmp_path, tokenizers):
    made("bert", tmp_path, tokenizers("bert"))
    kept = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no tokenizer\.json"):
        loaded(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(kept)
    rewritten(tmp_path, dict, {"vocab_size": 50})
    with pytest.raises(CheckpointError, match=r"the tokenizer has \d+ tokens and the model 50 rows for them"):
        loaded(tmp_path)


def test_steps_and_settings_are_of_the_right_kind_of_folder(vit):
    with pytest.raises(CheckpointError, match="is no run of mmpt and has no checkpoint of step 3"):
        loaded(vit, step=3)
    with pytest.raises(ConfigError, match="is a folder, and has its own weights"):
        loaded(vit, weights=vit / "model.safetensors")
