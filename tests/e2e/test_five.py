"""Five modalities in one run, drawn very unevenly: no rank waits for another, whatever ZeRO shards."""

import pytest
from running import build_all_small_shards, close, mmpt, weights

from mmpt.export.command import export
from mmpt.training.ledger import read_lines

RARE = ("emoji", "captioned", "prompts", "transcribed", "beats", "reported", "patients", "noted")
TINY = [
    "trunk.width=16",
    "trunk.heads=2",
    "trunk.depth=1",
    *(f"objective.streams.{name}.predictor.width=16" for name in ("image", "speech", "ecg", "labs")),
    *(f"data.sources.{name}.weight=1" for name in RARE),
    "data.sources.glosses.weight=12",
    "data.batch_size=8",
    "training.steps=20",
    "training.log_every=1",
    "training.save_every=10",
    "training.optimizer.warmup_steps=2",
    "training.optimizer.eps=1e-4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where `shards` lie."""
    folder = tmp_path_factory.mktemp("five")
    (folder / "shards").mkdir()
    build_all_small_shards(folder / "shards")
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """A run of one process."""
    done = mmpt("pretrain", "five", "--out", folder / "alone", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "alone"


def test_every_source_has_its_turns(alone):
    seen = {line["source"] for line in read_lines(alone / "metrics.jsonl")}
    assert seen == {"glosses", *RARE}
    lines = read_lines(alone / "metrics.jsonl")
    assert all(f"{name}/loss" in {key for line in lines for key in line} for name in ("speech", "ecg", "labs"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_learn_what_one_learns_of_a_skewed_mixture(folder, alone, tmp_path, stage):
    settings = [*TINY, f"deepspeed.zero_optimization.stage={stage}"]
    done = mmpt("pretrain", "five", "--out", tmp_path / "run", *settings, ranks=2, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert close(weights(alone), weights(tmp_path / "run"), 5e-5)
    assert export(tmp_path / "run", tmp_path / "out", to="safetensors")["largest_difference"] == 0  # by one process
