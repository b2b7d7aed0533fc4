"""Places that run out and the balance loss: ranks do what one process does that takes their micro-batches in turn."""

import json

import pytest
from running import close, several, weights, write_recipe

ROUTED = [
    "trunk.feedforward=modality_experts",
    "trunk.top_feedforward={type: routed_experts, experts: 4}",
    "trunk.top_layers=1",
    "training.balance_weight=0.1",
    "training.steps=3",
    "training.save_every=3",
    "training.log_every=1",
    "training.optimizer.clip_norm=0.1",
    "deepspeed.zero_optimization.stage=2",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shards):
    """Folder of finished runs: by two ranks with divided experts, and by one process."""
    folder = tmp_path_factory.mktemp("routing")
    recipe = str(write_recipe(folder, shards))

    def job(name, *settings):
        return [recipe, str(folder / name), [*ROUTED, *settings], None]

    several(folder, [job("divided", "training.ep_size=2")], ranks=2)
    several(folder, [job("alone", "data.micro_batch_size=4")])  # of a batch of 8, as each rank has them
    return folder


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_two_ranks_route_and_learn_as_one_process_with_their_micro_batches(runs):
    assert close(weights(runs / "divided"), weights(runs / "alone"), tolerance=1e-5)
    for ours, own in zip(lines(runs / "divided"), lines(runs / "alone"), strict=True):
        assert ours["gradient_norm"] == pytest.approx(own["gradient_norm"], rel=1e-5)
        assert ours["experts/balance"] == pytest.approx(own["experts/balance"], rel=1e-5)
        assert own["experts/dropped"] > 0


@pytest.mark.slow
def test_the_log_has_what_experts_got_on_all_ranks(runs):
    for ours, own in zip(lines(runs / "divided"), lines(runs / "alone"), strict=True):
        (block,), (wanted,) = (line["experts"].values() for line in (ours, own))
        assert block.keys() == wanted.keys()
        for stream, figures in wanted.items():
            assert block[stream]["tokens"] == figures["tokens"] > 0
            assert block[stream]["load"] == pytest.approx(figures["load"], abs=1e-3)
            assert block[stream]["dropped"] == pytest.approx(figures["dropped"], abs=1e-3)
            assert block[stream]["entropy"] == pytest.approx(figures["entropy"], abs=1e-3)
