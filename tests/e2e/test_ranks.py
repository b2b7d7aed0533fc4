"""Two ranks under the real launcher learn what one process learns."""

import pytest
from running import close, mmpt, weights


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])  # test_five has them all, on a mixture
def test_two_ranks_under_the_launcher_learn_what_one_process_learns(run, tmp_path, stage):
    folder, recipe, _ = run
    settings = [f"deepspeed.zero_optimization.stage={stage}", "data.workers=1"]
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", *settings, ranks=2, afresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("step 12/12") == 1  # one rank speaks
    assert close(weights(folder), weights(tmp_path / "run"))


@pytest.mark.slow
def test_one_times_eight_and_two_micro_batches_of_four_learn_the_same(run, tmp_path):
    folder, recipe, _ = run
    done = mmpt("pretrain", recipe, "--out", tmp_path / "run", "data.micro_batch_size=4")
    assert done.returncode == 0, done.stderr
    assert close(weights(folder), weights(tmp_path / "run"))
