"""Going on from a finished run with another objective, as a user does it."""

import pytest
import torch
from running import close, several, weights

import mmpt
from mmpt.config import load_settings
from mmpt.errors import ConfigError, MmptError
from mmpt.recipes import find_recipe
from mmpt.settings import Recipe
from mmpt.training.command import build

OBJECTIVE = """objective:
  type: embedding
  pool: {type: latent_attention, latents: 4, heads: 2}
  streams:
    image: {masking: {ratio: 0.1, unit: {type: block, size: 2}}, corruption: drop}
  matryoshka: {layers: [1], widths: [4, 8]}
"""


@pytest.fixture(scope="module")
def recipe(run, tmp_path_factory):
    """The small recipe with an objective of its own, going on from the finished run."""
    text = run[1].read_text(encoding="utf-8")
    head, rest = text.split("objective:\n")
    data = rest[rest.index("data:\n") :].replace(", layout: {type: pack, length: 64}", "")
    path = tmp_path_factory.mktemp("posttraining") / "embedding.yaml"
    path.write_text(f"init_from: {run[0]}\n" + head + OBJECTIVE + data, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def straight(recipe):
    """A finished run, and one that lost its last checkpoint and went on."""
    folder = recipe.parent
    run, again = folder / "straight", folder / "again"
    several(folder, [[str(recipe), str(run), [], None], [str(recipe), str(again), [], str(run)]])
    return run, again


SHORT = ["training.steps=4", "training.save_every=4", "data.micro_batch_size=4"]


@pytest.mark.slow
def test_two_ranks_under_zero_learn_what_one_process_learns(recipe):
    folder, stages = recipe.parent, (1, 3)
    several(folder, [[str(recipe), str(folder / "alone"), SHORT, None]])
    stage = "deepspeed.zero_optimization.stage="
    several(folder, [[str(recipe), str(folder / f"{n}"), [*SHORT, f"{stage}{n}"], None] for n in stages], ranks=2)
    for number in stages:
        assert close(weights(folder / "alone"), weights(folder / str(number)))


def test_a_stop_changes_not_a_bit_and_the_pool_is_trained_along(straight):
    one, other = (weights(run) for run in straight)
    pool = [value for name, value in one.items() if name.startswith("objective.pool.")]
    assert len(pool) == 14
    assert all(value.any() for value in pool)  # its last layers begin with zeros
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_begins_with_the_weights_of_the_one_it_goes_on_from(run, recipe):
    model = build(load_settings(recipe, [], Recipe), 0, 1).model
    before = weights(run[0])
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[f"backbone.{name}"]), name


def test_the_result_opens_like_any_run(straight):
    encoder = mmpt.load(straight[0])
    assert encoder.step == 12
    assert encoder.encode([{"text": "a bird"}], pool="mean").shape == (1, 16)
    assert (straight[0] / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("streams: [text], weight: 2", "packed rows hold several documents; use layout=samples or layout=budget"),
        ("width: 16, depth: 2", "needs trunk.depth=2, this recipe has 3; set them to the model's"),
    ],
)
def test_what_can_not_be_gone_on_from_is_refused(recipe, run, tmp_path, change, sentence):
    text = recipe.read_text(encoding="utf-8")
    if "weight" in change:
        text = text.replace(change, f"{change}, layout: {{type: pack, length: 64}}")
    else:
        text = text.replace(change, "width: 16, depth: 3")
    path = tmp_path / "changed.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MmptError, match=sentence):
        build(load_settings(path, [], Recipe), 0, 1)


def test_a_recipe_of_this_folder_is_found_by_its_name():
    assert find_recipe("posttrain/mirror_ecg").exists()
    with pytest.raises(ConfigError, match="did you mean 'posttrain/mirror_ecg'"):
        find_recipe("posttrain/miror_ecg")
