"""A run of every modality, with experts that streams have and experts that a gate chooses; nothing was trained."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmpt.build import build_backbone, build_modalities, save_facts
from mmpt.config import dump_yaml, parse_settings
from mmpt.encoders import Facts
from mmpt.settings import Recipe
from mmpt.training import checkpoint

RECIPE = """
streams:
  text: {type: text, max_length: 20, positions: rotary}
  image: {type: image, size: 12, patch: 4}
  video: {type: video, size: 8, patch: 4, frames: 4, tubelet: 2, stride: 1}
  speech: {type: speech, stem: [[16, 8], [8, 8], [3, 2]], channels: 8, norm: group, kernel: 8, groups: 4}
  ecg: {type: ecg, max_seconds: 0.6, patch: 64}
  ecg_stem: {type: ecg_stem, max_seconds: 0.6, channels: 8, kernel: 8, groups: 4}
  labs: {type: labs, values: quantile}
trunk:
  type: transformer
  width: 16
  depth: 2
  heads: 2
  feedforward: {type: modality_experts, ratio: 2}
  top_feedforward: {type: routed_experts, experts: 3, ratio: 1, modality_bias: gate_and_expert}
  top_layers: 1
objective:
  type: masked_prediction
  streams:
    labs: {masking: {ratio: 0.3}, corruption: replace, predictor: mlp, target: cells}
data:
  sources:
    clinic: {shards: shards/clinic, streams: [text, image, video, speech, ecg, ecg_stem, labs]}
  batch_size: 4
training:
  steps: 2
  optimizer: {learning_rate: 1e-3}
"""


def make_clinic(run: Path, facts: Mapping[str, Facts], randomised: Callable[[Any], Any]) -> Path:
    """As a finished run leaves it, without its shards."""
    recipe = parse_settings(RECIPE, [], Recipe)
    modalities = build_modalities(recipe.streams, {name: facts[name] for name in recipe.streams})
    backbone = randomised(build_backbone(recipe, modalities))
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    save_facts(run, {name: own.facts for name, own in modalities.items()})
    weights = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    checkpoint.commit(run / "checkpoints", checkpoint.Saved(weights, {}, {"step": 2}))
    line = {"step": 1, "done": 2, "source": "clinic", "labs/loss": 0.75}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return run
