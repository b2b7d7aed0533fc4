"""Signals, damage, and several runs in one process."""

import shutil
import signal
import subprocess
import sys

import pytest
import torch
from running import environment, mmpt, start, weights


def test_a_damaged_checkpoint_is_passed_over_aloud_and_with_none_whole_the_run_is_refused(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    damaged = folder / "checkpoints" / "step-000000012" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = mmpt("pretrain", run[1], "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "step 12 is damaged and passed over" in done.stdout
    assert "going on from step 8 of 12" in done.stdout
    final, wanted = weights(folder), weights(run[0])
    assert all(torch.equal(final[name], wanted[name]) for name in wanted)
    for path in (folder / "checkpoints").glob("*/state.json"):
        path.unlink()
    done = mmpt("pretrain", run[1], "--out", folder)
    assert done.returncode == 2
    assert "none of its 2 checkpoints is whole" in done.stderr
    assert len(list((folder / "checkpoints").iterdir())) == 2


def test_python_pretrains_twice_in_one_process(run, tmp_path):
    lines = [
        "import mmpt",
        f"for name in 'ab': mmpt.pretrain({str(run[1])!r}, 'training.steps=2', out={str(tmp_path)!r} + '/' + name)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_so_and_exits_with_its_own_code(run, tmp_path, number):
    folder, recipe, _ = run
    arguments = ("pretrain", recipe, "--out", tmp_path / "run", "training.log_every=1")
    process = start(*arguments)
    assert process.stdout is not None
    seen = process.stdout.readline()
    process.send_signal(number)
    output = seen + process.communicate(timeout=120)[0]
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 3, output
    assert "stopped by a signal after step" in output
    assert mmpt(*arguments).returncode == 0
    final, straight = weights(tmp_path / "run"), weights(folder)
    assert all(torch.equal(final[name], straight[name]) for name in straight)
