"""Fewer blocks: which ones are chosen, that what is left computes the same, and what is refused."""

import json

import pytest
import torch
from walks import CLASSES, walk

import mmpt
from mmpt.cli import main
from mmpt.compress.blocks import first_blocks, with_trunk
from mmpt.compress.command import CompressRecipe
from mmpt.compress.methods.depth import choices_of
from mmpt.config import component, load_settings
from mmpt.downstream.samples import collated, prepared
from mmpt.export.command import export
from mmpt.objectives.views import complete
from mmpt.recipes import recipes
from mmpt.trunk.feedforward import FeedForward

RECIPE = """
run: RUN
data: SHARDS
streams: [image, text]
label: place
method: {type: depth, depth: 1, batches: 2, batch_size: 8}
"""


@pytest.fixture(scope="module")
def recipe(run, shards, tmp_path_factory):
    path = tmp_path_factory.mktemp("compress") / "depth.yaml"
    path.write_text(RECIPE.replace("RUN", str(run)).replace("SHARDS", str(shards)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shallow(recipe):
    assert main(["compress", str(recipe), "--out", str(recipe.parent / "shallow")]) == 0
    return recipe.parent / "shallow"


@pytest.mark.parametrize(
    ("losses", "small", "large"),
    [
        ([3.0, 1.0, 2.0, 0.5], 2, 4),
        ([3.0, 1.0, 0.2, 0.5, 0.1], 2, 5),  # of an odd number the middle block is in the upper half
        ([1.0, 1.0, 2.0, 2.0], 1, 3),  # of equals the shallower
        ([5.0, 1.0], 1, 2),
    ],
)
def test_the_best_depth_of_each_half_is_chosen(losses, small, large):
    assert choices_of(losses) == {"small": small, "large": large}


def test_the_smaller_model_is_the_first_block_and_the_final_norm(run, shallow):
    before, after = mmpt.load(run), mmpt.load(shallow)
    samples = [{"text": "a small bird"}, {"text": "a bird that sings at night in the woods"}]
    batch = collated(list(prepared(samples, before.modalities)), before.modalities)
    tokens = before.backbone.embed(batch)
    shown = complete(tokens)
    sizes = {name: own.x.shape[1] for name, own in tokens.items()}
    _, output = before.backbone.mix(shown, sizes, batch.draw, [1])
    assert torch.equal(before.backbone.trunk.norm(output.inner[1].x), after.backbone(batch)["text"].x)
    assert after.recipe.trunk.settings["depth"] == 1
    assert not any(parameter.requires_grad for parameter in after.backbone.parameters())


def test_the_folder_is_a_run_like_any_other(shallow, tmp_path):
    assert (shallow / "recipe.yaml").exists()
    certificate = export(shallow, tmp_path / "exported", to="safetensors")
    assert certificate["largest_difference"] == 0
    report = json.loads((shallow / "compression.json").read_text(encoding="utf-8"))
    assert report["method"]["depth"] == 1
    assert len(report["method"]["losses"]) == 2
    assert report["parameters"][1] < report["parameters"][0]
    assert {"before", "after"} == set(report["quality"]["scores"])
    learned, judged = (
        [walk(n)["labels"]["place"] for n in range(300) if n // 5 % 5 in days] for days in ((0, 1, 2), (4,))
    )
    assert report["quality"]["trivial"] == judged.count(max(CLASSES, key=learned.count)) / len(judged)


def test_all_blocks_are_the_model_itself_and_the_table_says_so(run, recipe, tmp_path, capsys):
    assert main(["compress", str(recipe), "--out", str(tmp_path / "whole"), "method.depth=2", "label=null"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "(100%)" in told
    assert "2 of 2 blocks stay; method.depth=small or a number takes fewer" in told
    before, after = (mmpt.load(folder).backbone.state_dict() for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_blocks_with_another_feedforward_on_top_are_counted_from_below(run):
    recipe = mmpt.load(run).recipe
    deep = with_trunk(recipe, depth=4, top_layers=2, top_feedforward=component(FeedForward, "dense", ratio=2.0))
    weights = {f"backbone.trunk.blocks.{number}.norm1.weight": torch.ones(1) for number in range(4)}
    for count, top in ((4, 2), (3, 1), (2, 0), (1, 0)):
        shallow, kept = first_blocks(deep, weights, count)
        settings = shallow.trunk.settings
        assert (settings["depth"], settings["top_layers"]) == (count, top)
        assert (settings["top_feedforward"] is None) == (top == 0)
        assert list(kept) == list(weights)[:count]
        assert shallow.trunk.build(2).depth == count


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("method.depth=3", "depth: expected 1 to 2, the blocks of the run, got 3"),
        ("method.depth=0", "depth: expected 1 to 2, the blocks of the run, got 0"),
        ("method.batch_size=1", "expected 1 batch of 2 samples at least"),
        ("streams=[image, sound]", "has no 'sound'"),
        ("label=plase", "did you mean 'place'?"),
        ("run=nowhere", "nowhere is no run folder"),
        ("method.type=dept", "did you mean 'depth'?"),
    ],
)
def test_what_can_not_be_made_smaller_is_refused(recipe, tmp_path, capsys, change, sentence):
    out = tmp_path / "out"
    assert main(["compress", str(recipe), "--out", str(out), change]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_is_taken_is_refused(recipe, shallow, tmp_path, capsys):
    assert main(["compress", str(recipe), "--out", str(shallow)]) == 2
    assert "holds a finished compression" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(["compress", str(recipe), "--out", str(tmp_path)]) == 2
    assert "is not empty, and not of this recipe" in capsys.readouterr().err


@pytest.mark.parametrize("listed", recipes("compress"), ids=lambda listed: listed.name)
def test_a_recipe_of_this_folder_can_be_read_and_says_what_it_is(listed):
    settings = load_settings(listed.path, [], CompressRecipe)
    assert settings.method.build()
    assert len(listed.line) > 20
