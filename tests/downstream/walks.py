"""A small labelled data set and a run over it, made without DeepSpeed."""

from pathlib import Path
from shutil import rmtree

import numpy as np
import torch
from PIL import Image

from mmpt.build import build_modalities, build_model, build_sources, facts_of
from mmpt.config import parse_settings
from mmpt.finetune import Classifier
from mmpt.finetune.examples import examples_of
from mmpt.finetune.model import plain_model
from mmpt.finetune.rows import Rows
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.frozen_runs import fingerprints, load_frozen
from mmpt.training.run import prepare

SEA = ["wave", "sail", "anchor", "harbour", "salt", "tide"]
HILL = ["stone", "heather", "sheep", "ridge", "cairn", "mist"]
COMMON = ["the", "old", "grey", "morning", "path", "wind", "under", "over"]
CLASSES = ("hill", "sea")

RECIPE = """
streams:
  text: {type: text, max_length: 24}
  image: {type: image, size: 16, patch: 4, crop_scale: [0.5, 1.0], flip: true}
trunk: {type: transformer, width: 16, depth: 2, heads: 2, drop_path: 0.2}
objective:
  type: masked_prediction
  streams:
    text: {masking: {ratio: 0.3}, corruption: replace, predictor: tied, target: token_ids}
    image:
      masking: {ratio: 0.75}
      corruption: drop
      predictor: {type: decoder, width: 16, depth: 1, heads: 2}
      target: pixels
data:
  sources:
    walks: {shards: SHARDS, streams: [image, text]}
  batch_size: 4
  workers: 0
training:
  steps: 2
  optimizer: {learning_rate: 1e-3}
"""


def prose(kind: int, number: int, words: int = 9) -> str:
    """Every other word tells the class."""
    generator = np.random.default_rng([1, number])
    own, common = (SEA if kind else HILL), COMMON
    return " ".join(str(generator.choice(own if place % 2 else common)) for place in range(words))


def picture(kind: int, number: int) -> Image.Image:
    """Blue for the sea and green for the hills, with noise."""
    generator = np.random.default_rng([2, number])
    pixels = generator.integers(0, 120, (18, 22, 3))
    pixels[:, :, 2 if kind else 1] += 60
    return Image.fromarray(pixels.astype(np.uint8))


def walk(number: int) -> dict:
    """A sample; five of a group, and every fifth lacks its text."""
    generator = np.random.default_rng([3, number])
    kind = int(generator.integers(2))
    group = number // 5
    sample = {
        "image": picture(kind, number),
        "labels": {"place": CLASSES[kind], "coin": int(generator.integers(2)), "name": f"walk {number}", "tags": ["a"]},
        "__group__": f"day {group}",
        "__split__": ("train", "train", "train", "validation", "test")[group % 5],
    }
    return sample if number % 5 == 4 else sample | {"text": prose(kind, number)}


def make_run(run: Path, shards: Path, steps: tuple[int, ...] = (1, 2), text: str = RECIPE) -> Path:
    """Checkpoints whose weights are the fresh ones, shaken: step by step more."""
    recipe = parse_settings(text.replace("SHARDS", str(shards)), [], Recipe)
    facts = facts_of(recipe)
    modalities = build_modalities(recipe.streams, facts)
    model = build_model(recipe, modalities)
    load_frozen(model)
    prepare(run, recipe, facts, build_sources(recipe, modalities), fingerprints(model))
    for step in steps:
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        parameters = {name: value.detach() for name, value in model.named_parameters()}
        every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        weights = parameters | {name: value for name, value in model.state_dict().items() if name not in every}
        checkpoint.commit(run / "checkpoints", checkpoint.Saved(weights, {}, {"step": step}))
    return run


def shake(run: Path) -> None:
    """Other weights in its last checkpoint."""
    last = checkpoint.latest(run / "checkpoints")
    assert last is not None
    saved = checkpoint.load(last)
    rmtree(last)
    weights = {name: value + 0.1 for name, value in saved.weights.items()}
    checkpoint.commit(run / "checkpoints", saved._replace(weights=weights))


def unfitted(encoder, *, seed: int = 0, inputs: tuple[str, ...] = ("image",), rows: int = 6) -> tuple:
    """A model as a strategy gets it, and a batch of walks."""
    task = Classifier(encoder, label="place", inputs=inputs)
    task.facts = {"classes": list(CLASSES), "counts": [1, 1]}
    samples = [{name: own for name, own in walk(number).items() if name in inputs} for number in range(rows)]
    labels: list = [task.read(walk(number)["labels"]["place"]) for number in range(rows)]
    examples = examples_of(samples, task.inputs, label=None, split="train")
    return plain_model(task, seed), Rows(task, examples, labels).batch(range(rows))


def backward(model, losses, hidden) -> dict[str, torch.Tensor]:
    """Gradients of the backbone, by name, of the sum of losses as a step has it."""
    model.zero_grad()
    sum(loss.total / hidden[name].denominator for name, loss in losses.items()).backward()
    return {name: p.grad.clone() for name, p in model.backbone.named_parameters() if p.grad is not None}
