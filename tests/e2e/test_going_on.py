"""A run that was stopped by hand goes on exactly, under any ZeRO stage and with other ranks."""

import os
import signal

import pytest
import torch
from running import close, mmpt, start, weights


def stop_at_step_four(process):
    """Ctrl-C, which reaches launcher and ranks alike, once the line of step 4 is there; the rest of the output."""
    assert process.stdout is not None
    for line in process.stdout:
        if "step 4/40" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=120)[0]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_an_interrupted_run_goes_on_exactly_under_zero_2_and_3_and_with_other_ranks(run, tmp_path, stage):
    settings = ("training.steps=40", f"deepspeed.zero_optimization.stage={stage}")
    straight = mmpt("pretrain", run[1], "--out", tmp_path / "straight", *settings)
    assert straight.returncode == 0, straight.stderr
    changes = [(1, 1), (1, 2)] if stage == 2 else [(2, 1)]
    for first, then in changes:
        folder = tmp_path / f"{first} to {then}"
        stop_at_step_four(start("pretrain", run[1], "--out", folder, *settings, ranks=first))
        done = mmpt("pretrain", run[1], "--out", folder, *settings, ranks=then)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "going on from step" in done.stdout
        final, wanted = weights(folder), weights(tmp_path / "straight")
        if first == then == 1:
            assert all(torch.equal(final[name], wanted[name]) for name in wanted)
        else:
            assert close(final, wanted, 2e-4)
