"""Units of anything: recordings longer than a run reads at once, HuBERT's rounds on ECG and tables, and kills."""

import csv
import gzip
import json
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from killed_rounds import PLACES
from running import forked

from mmpt.data.builders.ecg import build_ecg
from mmpt.data.builders.labs import build_labs
from mmpt.data.builders.speech import build_speech
from mmpt.data.codebook import load_codebook
from mmpt.data.manifest import load_manifest
from mmpt.data.source import Source, SourceSettings
from mmpt.downstream.units.features import LayerFeatures, alone, block_output
from mmpt.downstream.units.fit import fit_codebook
from mmpt.downstream.units.label import label_data
from mmpt.downstream.units.rounds import run_rounds
from mmpt.downstream.units.score import Confidence, score_data
from mmpt.errors import MmptError
from mmpt.samples import FOLDER
from mmpt.training.command import pretrain

STREAMS = """
  speech: {type: speech_mel, mels: 20, kernel: 4, stride: 4, max_seconds: 0.4}
  ecg: {type: ecg, patch: 14, max_seconds: 0.5}
  labs: {type: labs}
"""
ROUNDS = """
streams: {STREAM}
trunk: {type: transformer, width: 16, depth: 2, heads: 2}
objective:
  type: masked_prediction
  streams:
    NAME: {masking: {ratio: 0.5}, corruption: replace, predictor: {type: cosine_codebook, projection: 8}, target: units}
data:
  sources: {own: {shards: SHARDS/NAME, streams: [NAME]}}
  batch_size: 4
training:
  steps: 2
  log_every: 1
  optimizer: {learning_rate: 1e-2, warmup_steps: 1}
hubert:
  stream: NAME
  iterations: ITERATIONS
"""
FIRST = "{clusters: 5, layer: auto, against: label, run: RUN}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small parts of the real speech, ECG and laboratory samples."""
    folder = tmp_path_factory.mktemp("rounds")
    prompts, own = part_of("speech/speech.csv", folder / "speech.csv", 40)
    with zipfile.ZipFile(FOLDER / "speech" / "prompts.zip") as archive:
        archive.extractall(folder / "prompts", [row["file"] for row in prompts])
    build_speech(folder / "prompts", folder / "speech", labels=own)
    rows, own = part_of("ecg/ecg.csv", folder / "ecg.csv", 40)
    with np.load(FOLDER / "ecg" / "beats.npz") as beats:
        np.save(folder / "beats.npy", beats["signal"][[int(row["row"]) for row in rows]])
    build_ecg(folder / "beats.npy", folder / "ecg", labels=own, leads=["ECG"], source_rate=140, unit="none")
    _, own = part_of("labs/support2.csv.gz", folder / "labs.csv", 40)
    build_labs(own, folder / "labs", units=FOLDER / "labs" / "units.csv", labels=("dzgroup", "hospdead"))
    return folder


def part_of(name, part, count):
    """Rows at regular distances and the table that they stand in."""
    opened = gzip.open if name.endswith("gz") else open
    with opened(FOLDER / name, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: len(rows) // count][:count]
    table = [row | {"row": number} for number, row in enumerate(rows)] if "row" in rows[0] else rows
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return rows, part


@pytest.fixture(scope="module")
def run(folder):
    """All three on one trunk, hardly trained."""
    decoder = "{type: decoder, width: 16, depth: 1, heads: 2}"
    parts = {"speech": "log_mel", "ecg": "signal", "labs": "cells"}
    streams = "".join(
        f"    {name}: {{masking: {{ratio: 0.5}}, corruption: drop, predictor: {decoder}, target: {target}}}\n"
        for name, target in parts.items()
    )
    sources = "".join(f"    {name}: {{shards: {folder / name}, streams: [{name}]}}\n" for name in parts)
    recipe = folder / "run.yaml"
    recipe.write_text(
        f"streams: {STREAMS}trunk: {{type: transformer, width: 16, depth: 2, heads: 2}}\n"
        f"objective:\n  type: masked_prediction\n  streams:\n{streams}"
        f"data:\n  sources:\n{sources}  batch_size: 4\n"
        "training:\n  steps: 3\n  optimizer: {learning_rate: 1e-2, warmup_steps: 1}\n",
        encoding="utf-8",
    )
    return pretrain(recipe, out=folder / "run")


def rounds_of(folder, run, name, iterations):
    """A recipe with a section `hubert` for this stream of the run."""
    stream = "".join(line for line in STREAMS.splitlines(keepends=True) if line.strip().startswith(name))
    text = ROUNDS.replace("{STREAM}", f"\n{stream}").replace("ITERATIONS", iterations).replace("RUN", str(run))
    recipe = folder / f"rounds-{name}.yaml"
    recipe.write_text(text.replace("NAME", name).replace("SHARDS", str(folder)), encoding="utf-8")
    return recipe


def trained_on(run):
    """Losses and skipped samples of every step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [value for line in lines for name, value in line.items() if name.endswith("/loss")]


@pytest.mark.parametrize("name", ["speech", "ecg"])
def test_training_finds_the_labels_of_every_piece_of_a_long_recording(folder, run, name, tmp_path):
    features = LayerFeatures(run, name, layer=1)
    codebook = fit_codebook(features, folder / name, clusters=5)
    labels, quality = label_data(codebook, features, folder / name, tmp_path / "units")
    modality = features.encoder.modalities[name]
    lengths = load_manifest(folder / name).lengths(name)
    assert min(lengths) > modality.limit
    if name == "ecg":
        counts = [sum(modality.num_tokens(*piece) for piece in modality.pieces(int(length))) for length in lengths]
    else:
        counts = [int(length * features.rate / modality.data_rate) for length in lengths]
    assert labels.lengths("units").tolist() == counts
    assert quality.frames == sum(counts)

    settings = SourceSettings(shards=folder / name, streams=(name,), units={name: tmp_path / "units"})
    source = Source("own", 0, settings, {name: modality}, 0)
    rows = source.rows(list(range(source.plan.num_bins)))
    content = rows.streams[name]
    assert rows.skips == []
    assert len(content.valid) > 2 * len(source.samples) - 1
    frames = block_output(features.encoder, name, alone(name, content), 1)[content.valid]
    agree = codebook.assign(frames.numpy()) == content.units[content.valid][:, 0].numpy()
    assert agree.mean() > 0.99  # rounding may move a frame between two centroids


@pytest.fixture(scope="module")
def ecg_rounds(folder, run):
    """Two rounds on ECG strips: a layer of the run, then one of the first round."""
    recipe = rounds_of(folder, run, "ecg", f"[{FIRST}, {{clusters: 7, layer: 2}}]")
    assert run_rounds(recipe, out=folder / "ecg-rounds", launcher=None) == folder / "ecg-rounds/round-2/run"
    return recipe, folder / "ecg-rounds"


def test_two_rounds_on_ecg_strips_each_from_the_one_before(folder, run, ecg_rounds):
    first, second = (load_codebook(ecg_rounds[1] / f"round-{n}/units.safetensors") for n in (1, 2))
    assert first.features == LayerFeatures(run, "ecg", layer=int(first.features["layer"])).settings
    assert second.features == LayerFeatures(ecg_rounds[1] / "round-1/run", "ecg", layer=2).settings
    assert (first.clusters, second.clusters, second.rate) == (5, 7, None)
    for number in (1, 2):
        losses = trained_on(ecg_rounds[1] / f"round-{number}/run")
        assert losses
        assert all(0 < loss < 20 for loss in losses)
    manifest = score_data(Confidence(ecg_rounds[1] / "round-2/run", "ecg"), folder / "ecg", folder / "ecg-scores")
    labels = load_manifest(ecg_rounds[1] / "round-2/labels/own")
    assert manifest.lengths("scores").tolist() == labels.lengths("units").tolist()


def test_a_round_on_laboratory_cells(folder, run):
    recipe = rounds_of(folder, run, "labs", "[{clusters: 6, layer: 2, run: RUN}]")
    done = run_rounds(recipe, out=folder / "labs-rounds", launcher=None)
    labels = load_manifest(folder / "labs-rounds/round-1/labels/own")
    assert labels.lengths("units").tolist() == load_manifest(folder / "labs").lengths("labs").tolist()
    losses = trained_on(done)
    assert losses
    assert all(0 < loss < 20 for loss in losses)


def test_killed_before_pretraining_rounds_go_on_to_the_same_codebook_and_labels(folder, run, ecg_rounds):
    out = folder / "killed"
    round_1 = out / "round-1"
    recipe = rounds_of(folder, run, "ecg", f"[{FIRST}]")
    for stage in PLACES:
        done = forked([str(recipe), str(out), stage], Path(__file__).with_name("killed_rounds.py"))
        assert done.returncode == -signal.SIGKILL, stage + done.stderr
        assert (round_1 / "units.safetensors").exists() == (stage == "labelling")
        assert not (round_1 / "labels/own/manifest.json").exists()
    run_rounds(recipe, out=out, launcher=None)
    whole = ecg_rounds[1] / "round-1"
    codebooks = [load_codebook(folder / "units.safetensors") for folder in (round_1, whole)]
    assert codebooks[0].hash == codebooks[1].hash
    assert codebooks[0].chosen == codebooks[1].chosen
    labels = [load_manifest(folder / "labels/own") for folder in (round_1, whole)]
    assert labels[0].fingerprint() == labels[1].fingerprint()


def test_rounds_are_not_for_a_launcher(folder, ecg_rounds, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MmptError, match="mmpt hubert: expected one process, got 2 of a launcher; it starts"):
        run_rounds(ecg_rounds[0], out=folder / "launched", launcher=None)
    assert not (folder / "launched").exists()
