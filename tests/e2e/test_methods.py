"""Every recipe: going on changes no byte, and two ranks under ZeRO learn what one process learns."""

import hashlib
import importlib
from pathlib import Path

import pytest
from running import build_all_small_shards, close, mmpt, several, weights

from mmpt.recipes import recipes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 4
SETTINGS = [
    f"training.steps={STEPS}",
    *("training.save_every=2", "training.keep_last=9", "training.log_every=2", "data.workers=0"),
    # what is of a micro-batch alone (negatives, queues of experts) is the same for one rank and two
    *("data.batch_size=4", "data.micro_batch_size=2"),
    # rounding noise of a gradient near zero makes no full step
    *("training.optimizer.eps=1e-4", "training.optimizer.warmup_steps=1"),
]
LISTED = [pytest.param(recipe, marks=pytest.mark.slow, id=recipe.name) for recipe in recipes()]


def prepare(command, folder, _log):
    """A command before a recipe's last one."""
    done = mmpt(*command, cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every recipe over small shards, with whatever its own command line prepares."""
    shards = build_all_small_shards(tmp_path_factory.mktemp("shards"))
    folder = tmp_path_factory.mktemp("methods")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        sample_runs = importlib.import_module("sample_runs")
        patch.setattr(sample_runs, "PREPARATION_SETTINGS", SETTINGS)
        patch.setattr(sample_runs, "run", prepare)
        for recipe in recipes():
            sample_runs.over_shards(recipe.path, shards, folder, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """One process: each run from its first step, and once more from its middle."""
    jobs = [[str(own), str(folder / "straight" / own.stem), [], None] for own in sorted(folder.glob("*.yaml"))]
    jobs += [[job[0], job[1].replace("straight", "resumed"), [], job[1]] for job in jobs]
    several(folder.parent, jobs)
    return folder


@pytest.fixture(scope="module")
def on_two_ranks(folder):
    """ZeRO stages 0, 1 and 2 in turn."""
    names = [recipe.name for recipe in recipes()]
    jobs = [
        [str(folder / f"{name}.yaml"), str(folder / "ranks" / name), [_stage(number % 3)], None]
        for number, name in enumerate(names)
    ]
    several(folder.parent, jobs, ranks=2)
    return folder


def _stage(number):
    return f"deepspeed.zero_optimization.stage={number}"


@pytest.mark.parametrize("recipe", LISTED)
def test_going_on_from_the_middle_changes_no_byte(recipe, alone):
    runs = alone / "straight" / recipe.name, alone / "resumed" / recipe.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = (run / "checkpoints" / f"step-{STEPS:09d}" / name for run in runs)
        one, other = (hashlib.sha256(file.read_bytes()).digest() for file in files)
        assert one == other, name


@pytest.mark.parametrize("recipe", LISTED)
def test_two_ranks_learn_what_one_process_learns(recipe, alone, on_two_ranks):
    assert close(weights(alone / "straight" / recipe.name), weights(on_two_ranks / "ranks" / recipe.name), 1e-4)
