"""The recipes that come with mmpt: each parses, is listed with a line, builds, and learns for a step."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from running import build_all_small_shards, mmpt

from mmpt.config import dump_yaml, load_settings, parse_settings
from mmpt.data.codebook import save_codebook
from mmpt.data.manifest import load_manifest
from mmpt.data.schema import declare
from mmpt.data.writer import ShardWriter
from mmpt.downstream.units.features import MfccFeatures
from mmpt.downstream.units.fit import fit_codebook
from mmpt.errors import ConfigError
from mmpt.recipes import POSTTRAIN, recipes
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.command import build
from mmpt.training.optimizer import optimizer_for
from mmpt.training.run import prepare


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = build_all_small_shards(tmp_path_factory.mktemp("shards"))
    speech = folder / "speech"
    for name, clusters in (("mfcc", 50), ("coarse", 25)):
        codebook = fit_codebook(MfccFeatures(load_manifest(speech), "speech"), speech, clusters=clusters)
        save_codebook(codebook, folder / "units" / f"{name}.safetensors")
    write_scores(folder)
    for name in ("image_mae", "text_mlm"):
        write_run(folder, name)
    return folder


def of_shards(settings, shards):
    """The recipe's text with paths to the test's own data and runs."""
    text = dump_yaml(settings)
    for name in ("shards", "units", "runs"):
        text = text.replace(f" {name}/", f" {shards}/{'' if name == 'shards' else name + '/'}")
    return text


def write_run(shards, name):
    """A finished run that other recipes look at, with fresh weights."""
    (listed,) = (recipe for recipe in recipes() if recipe.name == name)
    recipe = parse_settings(of_shards(load_settings(listed.path, [], Recipe), shards), [], Recipe)
    built, run = build(recipe, 0, 1), shards / "runs" / name
    prepare(run, recipe, built.facts, built.sources)
    weights = {name: value.clone() for name, value in built.model.state_dict().items()}
    checkpoint.commit(run / "checkpoints", checkpoint.Saved(weights, {}, {"step": recipe.training.steps}))


def write_scores(folder):
    """A hundred a second, as a scorer's would be."""
    manifest = load_manifest(folder / "speech")
    rate, generator = manifest.fields["speech"].facts["sample_rate"], np.random.default_rng(0)
    fields = {"scores": declare("scores", "npy", stream="speech", rate="100")}
    with ShardWriter(folder / "speech-scores", fields) as writer:
        for key, length in zip(manifest.column("key"), manifest.lengths("speech").tolist(), strict=True):
            own = generator.random(length * 100 // rate + 1).astype(np.float32)
            writer.write({"scores": own, "__key__": str(key)})


@pytest.mark.parametrize("listed", recipes() + recipes(POSTTRAIN), ids=lambda listed: listed.name)
def test_a_recipe_takes_a_step_and_its_loss_falls_on_the_same_batch(listed, shards):
    settings = load_settings(listed.path, [], Recipe)
    text = of_shards(settings, shards)
    changes = ["data.batch_size=4", "training.optimizer.learning_rate=3e-4"]
    changes += ["init_from=null"] if settings.init_from else []
    built = build(parse_settings(text, changes, Recipe), 0, 1)
    optimizer = optimizer_for(built.model, built.recipe.training.optimizer)
    batch = built.batches[0].batch
    losses = []
    for _ in range(3):
        hidden = built.model.hide(batch, 0.0)
        step = built.model(batch, hidden, 0.0)
        loss = torch.stack([x.total / hidden[name].denominator for name, x in step.losses.items()]).sum()
        optimizer.zero_grad()
        (loss + step.balance).backward()
        assert all(p.grad is not None for p in built.model.parameters() if p.requires_grad)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[0]


@pytest.mark.parametrize("listed", recipes(), ids=lambda listed: listed.name)
def test_the_second_line_of_a_recipe_is_a_command_that_begins_with_the_sample_shards_and_ends_with_the_recipe(listed):
    first, *_, last = listed.path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ").split(" && ")
    assert first == "mmpt samples shards"
    assert last == f"mmpt pretrain {listed.name}"


@pytest.mark.parametrize(
    ("folder", "command", "reads"),
    [
        (POSTTRAIN, "mmpt pretrain posttrain/", "init_from"),
        ("finetune", "mmpt finetune ", "encoder"),
        ("compress", "mmpt compress ", "run"),
    ],
)
def test_the_second_line_of_what_follows_a_run_makes_that_run_and_ends_with_the_recipe(folder, command, reads):
    for listed in recipes(folder):
        text = listed.path.read_text(encoding="utf-8")
        first, *between, last = text.splitlines()[1].removeprefix("# ").split(" && ")
        assert first == "mmpt samples shards"
        assert last.startswith(f"{command}{listed.name} --out runs/")
        made = between[-1].partition(" --out ")[2] or f"runs/{between[-1].split()[2]}"
        assert made == yaml.safe_load(text)[reads]


def test_every_recipe_of_pretraining_has_its_name_in_a_heading_of_the_page_of_methods():
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    headings = "".join(line for line in page.splitlines() if line.startswith("## "))
    names = [listed.name for listed in recipes()] + [f"{POSTTRAIN}/{listed.name}" for listed in recipes(POSTTRAIN)]
    assert not [name for name in names if f"`{name}`" not in headings]


def test_recipes_are_listed_with_a_line_each():
    done = mmpt("recipes")
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    configs = Path(__file__).parents[1] / "configs"
    names = [path.stem for path in sorted(configs.glob("*.yaml"))]
    names += [f"posttrain/{path.stem}" for path in sorted((configs / "posttrain").glob("*.yaml"))]
    names += [path.stem for verb in ("finetune", "compress") for path in sorted((configs / verb).glob("*.yaml"))]
    assert [line.split()[0] for line in lines] == names
    assert all(len(line.split(None, 1)[1]) > 20 for line in lines)


def test_describe_prints_what_a_recipe_comes_to(shards, tmp_path):
    (tmp_path / "shards").symlink_to(shards)
    done = mmpt("describe", "text_mlm", "--ranks", "2", "training.steps=50", "trunk.depth=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for wanted in ("depth: 2", "trunk", "steps an epoch", "a step: 16 bins = 2 ranks x 1 micro-batches x 8 bins",
                   "padding)", "memory a rank", "learning rate", "2.000e-03"):  # fmt: skip
        assert wanted in done.stdout, wanted


def test_an_unknown_modality_gets_the_nearest_name():
    (listed,) = (recipe for recipe in recipes() if recipe.name == "image_mae")
    text = listed.path.read_text(encoding="utf-8").replace("{type: image,", "{type: imgae,")
    with pytest.raises(ConfigError, match=r"expected a Modality \(.*\), got 'imgae'; did you mean 'image'\?"):
        parse_settings(text, [], Recipe)


def test_an_unknown_recipe_gets_the_nearest_name():
    done = mmpt("pretrain", "fvie")
    assert done.returncode == 2
    assert "did you mean 'five'?" in done.stderr
