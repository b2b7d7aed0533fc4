"""HuBERT's rounds as a user runs them: killed in the middle, the same command ends where an undisturbed one does."""

import json

import pytest
import torch
from running import build_all_small_shards, kill_group, mmpt, start, wait_for, weights
from transformers import HubertModel

from mmpt.data.codebook import load_codebook
from mmpt.data.manifest import load_manifest
from mmpt.export.command import export
from mmpt.settings import HubertSettings, IterationSettings

TINY = [
    "streams.speech.channels=8",
    "streams.speech.kernel=8",
    "streams.speech.groups=4",
    "trunk.width=16",
    "trunk.heads=2",
    "trunk.depth=2",
    "hubert.iterations=[{clusters: 6}, {clusters: 9, layer: auto, against: label, settings: [training.steps=8]}]",
    "data.batch_size=2",
    "training.steps=6",
    "training.log_every=1",
    "training.save_every=2",
    "training.optimizer.warmup_steps=2",
    "training.optimizer.eps=1e-4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where `shards` lie."""
    folder = tmp_path_factory.mktemp("hubert")
    (folder / "shards").mkdir()
    build_all_small_shards(folder / "shards")
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """Two rounds, undisturbed."""
    done = mmpt("hubert", "hubert_speech", "--out", "whole", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "whole"


def test_each_round_has_units_labels_and_a_run(folder, whole):
    for number, clusters, rate in ((1, 6, 100), (2, 9, 25)):
        codebook = load_codebook(whole / f"round-{number}" / "units.safetensors")
        assert (codebook.clusters, codebook.rate) == (clusters, rate)
        labels = load_manifest(whole / f"round-{number}" / "labels" / "prompts")
        assert labels.fields["units"].facts["codebook"] == codebook.hash
        assert len(labels) == len(load_manifest(folder / "shards" / "speech"))
        width = weights(whole / f"round-{number}" / "run")["objective.streams.speech.predictor.codes"]
        assert len(width) == clusters
    scores = codebook.chosen["pnmi"]
    assert codebook.features["layer"] == 1 + scores.index(max(scores))
    assert (len(scores), codebook.chosen["against"]) == (2, "label")


def test_the_same_command_again_does_nothing_again(folder, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    done = mmpt("hubert", "hubert_speech", "--out", "whole", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is there already") == 4
    assert done.stdout.count("nothing was changed") == 2
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == before


def test_other_settings_in_the_same_folder_are_refused(folder, whole):
    settings = [word.replace("clusters: 6", "clusters: 7") for word in TINY]
    done = mmpt("hubert", "hubert_speech", "--out", "whole", *settings, cwd=folder)
    assert done.returncode == 2
    assert "holds 6 units of" in done.stderr
    assert "asks for 7" in done.stderr


PICTURES = """
streams:
  image: {type: image, size: 16, patch: 4, crop_scale: [1.0, 1.0], flip: false}
trunk: {type: transformer, width: 16, depth: 2, heads: 2}
objective:
  type: masked_prediction
  streams:
    image: {masking: {ratio: 0.5}, corruption: replace, predictor: PREDICTOR, target: TARGET}
data:
  sources:
    pictures: {shards: shards/images, streams: [image]}
  batch_size: 4
training:
  steps: 4
  save_every: 4
  log_every: 1
  optimizer: {learning_rate: 1e-2, warmup_steps: 1}
"""
ROUNDS = """
hubert:
  stream: image
  iterations: [{clusters: 5, layer: auto, against: label, run: pixels}]
"""


def test_rounds_of_pictures_begin_with_a_layer_of_another_run(folder):
    pixels = PICTURES.replace("PREDICTOR", "mlp").replace("TARGET", "pixels")
    units = PICTURES.replace("PREDICTOR", "{type: cosine_codebook, projection: 8}").replace("TARGET", "units") + ROUNDS
    (folder / "pixels.yaml").write_text(pixels, encoding="utf-8")
    (folder / "pictures.yaml").write_text(units, encoding="utf-8")
    assert mmpt("pretrain", "pixels.yaml", "--out", "pixels", cwd=folder).returncode == 0
    done = mmpt("hubert", "pictures.yaml", "--out", "pictures", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "chosen" in done.stdout
    codebook = load_codebook(folder / "pictures/round-1/units.safetensors")
    assert (codebook.clusters, codebook.rate, codebook.stream) == (5, None, "image")
    labels = load_manifest(folder / "pictures/round-1/labels/pictures")
    assert set(labels.lengths("units").tolist()) == {16}  # of 4 x 4 patches
    lines = [json.loads(line) for line in (folder / "pictures/round-1/run/metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["image/loss"] < 20 for line in lines if "image/loss" in line)
    done = mmpt("hubert", "pictures.yaml", "--out", "flipped", "streams.image.flip=true", cwd=folder)
    assert done.returncode != 0
    assert "the recipe crops or flips it" in done.stderr


@pytest.mark.slow
def test_a_round_becomes_a_transformers_hubert_model(whole, tmp_path):
    certificate = export(whole / "round-2" / "run", tmp_path / "hubert", to="transformers")
    assert 0 < certificate["largest_difference"] < 1e-4
    peer = HubertModel.from_pretrained(tmp_path / "hubert")
    assert (peer.config.do_stable_layer_norm, peer.config.num_hidden_layers) == (True, 2)


@pytest.mark.parametrize("wrong", [{"layer": "auto"}, {"layer": 2, "against": "label"}, {"against": "label"}])
def test_layers_are_compared_by_labels_and_labels_are_for_nothing_else(wrong):
    with pytest.raises(ValueError, match=r"iterations\[1\]: `layer: auto` compares layers by what their units tell"):
        HubertSettings(
            stream="speech", iterations=(IterationSettings(clusters=4), IterationSettings(clusters=4, **wrong))
        )


@pytest.mark.slow
def test_killed_in_a_round_the_same_command_ends_where_an_undisturbed_one_does(folder, whole):
    process = start("hubert", "hubert_speech", "--out", "killed", *TINY, cwd=folder)
    try:
        wait_for(lambda: (folder / "killed/round-1/run/checkpoints/step-000000002").exists())
    finally:
        kill_group(process)
    assert not (folder / "killed" / "round-2").exists()
    done = mmpt("hubert", "hubert_speech", "--out", "killed", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stdout
    mine = weights(folder / "killed" / "round-2" / "run")
    assert all(torch.equal(value, mine[name]) for name, value in weights(whole / "round-2" / "run").items())


def test_a_recipe_without_rounds_is_refused(folder):
    done = mmpt("hubert", "speech_masked", "--out", "none", cwd=folder)
    assert done.returncode == 2
    assert "has no section `hubert`" in done.stderr
    assert not (folder / "none").exists()
