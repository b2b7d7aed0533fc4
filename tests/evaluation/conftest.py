"""Runs to look at, made without DeepSpeed: text and pictures; and speech with codes, ECG and cells on experts."""

import pytest

from mmpt.build import build_modalities, build_model, build_sources, facts_of
from mmpt.config import parse_settings
from mmpt.data.tokenizer import train_tokenizer
from mmpt.data.writer import ShardWriter
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.run import prepare
from tests.downstream.walks import make_run, prose, walk
from tests.report.clinic import write_visits

RECIPE = """
streams:
  speech: {type: speech_mel, mels: 8, kernel: 2, stride: 2, max_seconds: 1.0}
  ecg: {type: ecg, patch: 20, max_seconds: 2.0}
  labs: {type: labs}
trunk:
  {type: transformer, width: 16, depth: 2, heads: 2, top_feedforward: {type: routed_experts, experts: 4}, top_layers: 1}
objective:
  type: masked_prediction
  streams:
    speech:
      masking: {ratio: 0.5}
      corruption: noise
      predictor: mlp
      target: {type: online_codes, groups: 2, codes: 8, size: 16}
      contrast: {layer: 1, negatives: 4, size: 16}
    ecg: {masking: {ratio: 0.4}, corruption: replace, predictor: mlp, target: signal}
    labs: {masking: {ratio: 0.5}, corruption: replace, predictor: mlp, target: cells}
data: {sources: {visits: {shards: SHARDS, streams: [speech, ecg, labs]}}, batch_size: 4}
training: {steps: 8, optimizer: {learning_rate: 1e-3}}
"""


@pytest.fixture(scope="session")
def walks(tmp_path_factory):
    """40 samples of a text and a picture, some without text."""
    folder = tmp_path_factory.mktemp("walks")
    train_tokenizer([prose(n % 2, n) for n in range(100)], folder / "tokenizer", vocabulary=400, algorithm="bpe")
    declared = {"image": "png", "text": "txt", "labels": "json"}
    with ShardWriter(folder / "shards", declared, tokenizer=folder / "tokenizer") as writer:
        for number in range(40):
            writer.write(walk(number))
    return folder / "shards"


@pytest.fixture(scope="session")
def walks_run(tmp_path_factory, walks):
    return make_run(tmp_path_factory.mktemp("runs") / "walks", walks)


@pytest.fixture(scope="session")
def clinic(tmp_path_factory):
    return write_visits(tmp_path_factory.mktemp("clinic") / "shards", 48)


@pytest.fixture(scope="session")
def clinic_run(tmp_path_factory, clinic):
    run = tmp_path_factory.mktemp("runs") / "clinic"
    recipe = parse_settings(RECIPE.replace("SHARDS", str(clinic)), [], Recipe)
    facts = facts_of(recipe)
    modalities = build_modalities(recipe.streams, facts)
    prepare(run, recipe, facts, build_sources(recipe, modalities))
    model = build_model(recipe, modalities)
    checkpoint.commit(run / "checkpoints", checkpoint.Saved(dict(model.state_dict()), {}, {"step": 8}))
    return run
