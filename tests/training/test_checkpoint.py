import json
import subprocess

import pytest
import torch

from mmpt.errors import CheckpointError
from mmpt.training import checkpoint
from mmpt.training.checkpoint import Saved


def saved(step: int, size: int = 10) -> Saved:
    weights = {"a": torch.arange(size).float() + step, "b": torch.randn(3, 2)}
    return Saved(weights, {"a.exp_avg": torch.zeros(size)}, {"step": step, "updates": step})


def test_what_was_committed_is_loaded_again_bit_for_bit(tmp_path):
    given = saved(7)
    checkpoint.commit(tmp_path, given)
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    back = checkpoint.load(newest)
    assert back.state == given.state
    assert all(torch.equal(back.weights[name], given.weights[name]) for name in given.weights)
    assert torch.equal(back.moments["a.exp_avg"], given.moments["a.exp_avg"])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "COMMIT.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_for_the_last_good_one(tmp_path, name, damage):
    checkpoint.commit(tmp_path, saved(1))
    file = checkpoint.commit(tmp_path, saved(2)) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000000001"
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoint.load(tmp_path / "step-000000002")


def test_a_staged_folder_is_no_checkpoint_and_is_cleaned_up(tmp_path):
    checkpoint.commit(tmp_path, saved(1))
    (tmp_path / ".staging-step-000000002").mkdir()
    (tmp_path / ".staging-step-000000002" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.steps_in(tmp_path) == [1]
    checkpoint.prune(tmp_path, keep_last=1, keep_every=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001"]


def test_keep_last_and_keep_every(tmp_path):
    for step in range(1, 8):
        checkpoint.commit(tmp_path, saved(step))
        checkpoint.prune(tmp_path, keep_last=2, keep_every=3)
    assert checkpoint.steps_in(tmp_path) == [3, 6, 7]


def test_committing_a_damaged_step_again_replaces_it(tmp_path):
    folder = checkpoint.commit(tmp_path, saved(1))
    (folder / "state.json").write_text("{}")
    assert checkpoint.latest(tmp_path) is None
    checkpoint.commit(tmp_path, saved(1))
    assert checkpoint.latest(tmp_path) == folder


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_trace(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("a size-limited file system needs the right to mount one")
    try:
        checkpoint.commit(disk, saved(1, size=1000))
        with pytest.raises(
            CheckpointError, match=r"step-000000002: could not be saved .* earlier checkpoints are untouched"
        ):
            checkpoint.commit(disk, saved(2, size=100_000))
        assert checkpoint.latest(disk) == disk / "step-000000001"
        assert sorted(path.name for path in disk.iterdir()) == ["step-000000001"]
        checkpoint.commit(disk, saved(3, size=1000))
        assert json.loads((disk / "step-000000003" / "state.json").read_text())["step"] == 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)
