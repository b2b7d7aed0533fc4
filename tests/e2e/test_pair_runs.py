"""Pair losses as a user runs them: stopped and gone on with, on two ranks, retrieved and asked by prompts."""

import json
import shutil

import pytest
import torch
from running import close, mmpt, weights

from mmpt.data.manifest import load_manifest
from mmpt.downstream.labelled import find_labelled

ONE_BY_ONE = "data.micro_batch_size=4"  # what a rank of two has: negatives are of the micro-batch


@pytest.fixture(scope="module")
def recipe(run, tmp_path_factory):
    """The small recipe with both pair losses; captions are now and then another picture's."""
    text = run[1].read_text(encoding="utf-8")
    for before, after in (
        ("  type: masked_prediction", "  type: masked_prediction\n  pairs:\n"
         "    contrast: {type: sigmoid_contrast, streams: [image, text]}\n"
         "    match: {type: matching, streams: [image, text]}"),
        ("streams: [image, text]}\n  batch_size", "streams: [image, text], negatives: {stream: text}}\n  batch_size"),
    ):  # fmt: skip
        assert text.count(before) == 1
        text = text.replace(before, after)
    path = tmp_path_factory.mktemp("pairs") / "pairs.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def straight(recipe):
    done = mmpt("pretrain", recipe, "--out", recipe.parent / "straight", ONE_BY_ONE)
    assert done.returncode == 0, done.stderr
    assert "contrast" in done.stdout
    assert "match" in done.stdout
    return recipe.parent / "straight"


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns_under_zero_3(recipe, straight, tmp_path):
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", "deepspeed.zero_optimization.stage=3", ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert close(weights(straight), weights(tmp_path / "run"))


def test_pairs_are_searched_by_the_contrast_and_classes_by_prompts(straight, shards, tmp_path):
    done = mmpt("retrieve", straight, shards / "images", "--streams", "image,text", "--json", "--split", "train")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["features"].endswith("features of the run's contrast")
    assert [way["name"] for way in found["directions"]] == ["image -> text", "text -> image"]
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("nothing: [no such class]\n", encoding="utf-8")
    asked = [
        "zeroshot",
        straight,
        shards / "images",
        "--streams",
        "image,text",
        "--label",
        "label",
        "--prompts",
        prompts,
    ]
    refused = mmpt(*asked)
    assert refused.returncode == 2
    assert "prompts: none for class" in refused.stderr
    manifest = load_manifest(shards / "images")
    splits = ("train", "test")
    found = find_labelled(manifest, "label", ["image"], splits, max_samples=None, skip_unlabelled=True, seed=0)
    prompts.write_text("".join(f"'{name}': [a {name}, some {name}]\n" for name in found.classes), encoding="utf-8")
    done = mmpt(*asked)
    assert done.returncode == 0, done.stderr
    assert "by prompts" in done.stdout


def test_going_on_gives_the_same_weights_bit_for_bit(recipe, straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(max((tmp_path / "run" / "checkpoints").iterdir()))
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", ONE_BY_ONE)
    assert done.returncode == 0, done.stderr
    before, after = weights(straight), weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_streams_are_asked_for(straight, shards):
    for streams in ("image", "image,image", "image,text,text"):
        done = mmpt("retrieve", straight, shards / "images", "--streams", streams)
        assert done.returncode == 2
        assert "expected two different streams" in done.stderr
