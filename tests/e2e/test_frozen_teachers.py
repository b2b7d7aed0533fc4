"""MaskEmbed, ViLTA's soft labels and mask tokens as in MTO: gone on with, on two ranks, at every ZeRO stage."""

import pytest
import torch
from running import close, several, weights

TAIL = """
data:
  sources:
    SOURCE
  batch_size: 4
  workers: 0
training:
  steps: 6
  log_every: 2
  save_every: 3
  keep_last: 3
  optimizer: {learning_rate: 1e-2, eps: 1e-4, warmup_steps: 2}
"""
PICTURES = """
streams:
  image: {type: image, size: 16, patch: 4, crop_scale: [0.5, 1.0], flip: true}
trunk: {type: transformer, width: 16, depth: 2, heads: 2, drop_path: 0.1}
objective:
  OBJECTIVE
""" + TAIL.replace("SOURCE", "pictures: {shards: SHARDS/images, streams: [image]}")
PIXELS = """
  type: masked_prediction
  streams:
    image:
      masking: {ratio: 0.5}
      corruption: replace
      predictor: mlp
      target: pixels
"""
WORDS = """
streams:
  text: {type: text, max_length: 32}
trunk: {type: transformer, width: 16, depth: 2, heads: 2, drop_path: 0.1}
objective:
  OBJECTIVE
""" + TAIL.replace("SOURCE", "prose: {shards: SHARDS/text, streams: [text], layout: {type: pack, length: 64}}")
IDS = """
  type: masked_prediction
  streams:
    text:
      masking: {ratio: 0.3, unit: word}
      corruption: {type: replace, keep: 0.1, random: 0.1}
      predictor: tied
      target: token_ids
"""
METHODS = {
    "vilta": (WORDS, IDS.strip() + "\n      soft_labels: {type: frozen_run, run: FOLDER/words}"),
    "filled": (
        WORDS.replace(
            "prose: {shards: SHARDS/text, streams: [text], layout: {type: pack, length: 64}}",
            "captioned: {shards: SHARDS/images, streams: [image, text]}",
        ).replace("  text: {", "  image: {type: image, size: 16, patch: 4}\n  text: {", 1),
        IDS.strip().replace(
            "streams:",
            "pairs:\n    match: {type: matching, streams: [image, text], generated: {stream: text}}\n  streams:",
            1,
        )
        + PIXELS.partition("streams:")[2].rstrip(),
    ),
    "mto": (WORDS, IDS.strip().replace("streams:", "mask_tokens: {singularity: 0.5}\n  streams:", 1)),
    "maskembed": ("init_from: FOLDER/pixels" + PICTURES, "type: maskembed\n  run: FOLDER/pixels\n  heads: 2"),
}
STAGES = [("vilta", 0), ("vilta", 3), ("filled", 1), ("filled", 2), ("mto", 2), ("maskembed", 1), ("maskembed", 3)]
TEACHERS = {"pixels": (PICTURES, PIXELS.strip()), "words": (WORDS, IDS.strip())}


@pytest.fixture(scope="module")
def recipes(shards, tmp_path_factory):
    """`recipes["maskembed"]`, and those of the runs that others look at."""
    folder, paths = tmp_path_factory.mktemp("frozen"), {}
    for name, (text, objective) in (TEACHERS | METHODS).items():
        text = text.replace("OBJECTIVE", objective).replace("SHARDS", str(shards)).replace("FOLDER", str(folder))
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(text, encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def runs(recipes):
    """A finished run of each, and each method's that went on from its middle."""
    folder = recipes["pixels"].parent
    jobs = [[str(path), str(folder / name), [], ""] for name, path in recipes.items()]
    for name in METHODS:
        jobs.append([str(recipes[name]), str(folder / f"{name}-again"), [], str(folder / name)])
    several(folder, jobs)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_going_on_gives_the_same_weights_bit_for_bit(runs, name):
    before, after = weights(runs / name), weights(runs / f"{name}-again")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any("teacher" in key for key in before)


@pytest.fixture(scope="module")
def divided(recipes, runs):
    """Each method on two ranks."""
    zero = "deepspeed.zero_optimization.stage="
    several(
        runs,
        [[str(recipes[name]), str(runs / f"{name}-{stage}"), [f"{zero}{stage}"], ""] for name, stage in STAGES],
        ranks=2,
    )
    return runs


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_two_ranks_learn_what_one_process_learns(divided, name, stage):
    assert close(weights(divided / name), weights(divided / f"{name}-{stage}"))
