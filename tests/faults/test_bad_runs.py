"""What goes wrong in a run: unreadable samples, numbers that are not finite, a disk that is full."""

import shutil
import subprocess

import pytest
from running import mmpt, write_recipe

from mmpt.data.manifest import load_manifest
from mmpt.training.checkpoint import latest, problems
from mmpt.training.ledger import read_lines


def damage(folder, count):
    """Zero the pictures of the first `count` training samples; returns their keys."""
    manifest = load_manifest(folder)
    rows = manifest.split_rows("train")[:count]
    for row in rows:
        shard = folder / manifest.shards[manifest.column("shard")[row]].name
        data = bytearray(shard.read_bytes())
        start, size = int(manifest.column("image.offset")[row]), int(manifest.column("image.size")[row])
        data[start : start + size] = bytes(size)
        shard.write_bytes(data)
    return [str(manifest.column("key")[row]) for row in rows]


@pytest.fixture
def damaged(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "shards")


def test_a_few_unreadable_samples_are_skipped_named_and_counted(damaged, tmp_path):
    keys = damage(damaged / "images", 2)
    recipe = write_recipe(tmp_path, damaged)
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", "training.steps=40", "data.max_bad_share=0.5")
    assert done.returncode == 0, done.stderr
    skipped = [line for line in read_lines(tmp_path / "run" / "ledger.jsonl") if line["event"] == "skipped sample"]
    assert {line["key"] for line in skipped} == set(keys)
    assert all("shard-000000.tar" in line["reason"] and "checksum" in line["reason"] for line in skipped)
    assert read_lines(tmp_path / "run" / "metrics.jsonl")[-1]["bad_samples"] == len(skipped)


def test_too_many_unreadable_samples_stop_the_run_with_one_sentence(damaged, tmp_path):
    damage(damaged / "images", 20)
    recipe = write_recipe(tmp_path, damaged)
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", "training.steps=40", "data.max_bad_share=0.05")
    assert done.returncode == 2
    assert "more than data.max_bad_share=0.05 allows" in done.stderr
    assert "Traceback" not in done.stderr


def test_numbers_that_are_not_finite_skip_the_update_and_stop_after_some_in_a_row(shards, tmp_path):
    recipe = write_recipe(tmp_path, shards)
    settings = [
        "training.optimizer.learning_rate=1e38",
        "training.optimizer.warmup_steps=0",
        "training.max_nonfinite=3",
    ]
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", "training.save_every=1", *settings)
    assert done.returncode == 2, done.stdout
    assert "not finite 3 times in a row" in done.stderr
    assert "this update is skipped" in done.stdout
    updates = [line for line in read_lines(tmp_path / "run" / "ledger.jsonl") if line["event"] == "skipped update"]
    assert updates
    assert any(line["objective"] in ("text", "image") and line["uids"] and line["samples"] for line in updates)
    newest = latest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert not problems(newest)


def test_a_full_disk_stops_the_run_and_the_last_checkpoint_goes_on_when_there_is_room(shards, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a size-limited file system needs the right to mount one")
    try:
        recipe = write_recipe(tmp_path, shards)
        settings = ["training.save_every=1", "training.keep_last=50"]
        done = mmpt("pretrain", recipe, "--out", disk / "run", *settings)
        assert done.returncode == 2, done.stdout
        assert "could not be saved" in done.stderr
        assert "earlier checkpoints are untouched" in done.stderr
        newest = latest(disk / "run" / "checkpoints")
        assert newest is not None
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        again = mmpt("pretrain", recipe, "--out", disk / "run", *settings)
        assert again.returncode == 0, again.stderr
        assert f"going on from step {int(newest.name.removeprefix('step-'))} of 12" in again.stdout
    finally:
        subprocess.run(["umount", str(disk)], check=True)
