from itertools import pairwise

import pytest

from mmpt.settings import OptimizerSettings
from mmpt.training.schedules import learning_rate


def rates(schedule: str, **settings) -> list[float]:
    optimizer = OptimizerSettings(learning_rate=1.0, schedule=schedule, warmup_steps=10, **settings)
    return [learning_rate(optimizer, step, 110) for step in range(110)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "inverse_sqrt"])
def test_every_schedule_rises_linearly_to_the_peak(schedule):
    assert rates(schedule)[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])


def test_cosine_is_half_way_down_in_the_middle_and_ends_at_the_final_share():
    values = rates("cosine", final_share=0.1)
    assert values[10] == pytest.approx(1.0)
    assert values[60] == pytest.approx(0.55)
    assert values[109] == pytest.approx(0.1, abs=1e-3)


def test_linear_falls_by_the_same_amount_every_step():
    values = rates("linear")
    assert [a - b for a, b in pairwise(values[10:])] == pytest.approx([0.01] * 99)


def test_inverse_square_root_halves_when_steps_quadruple():
    values = rates("inverse_sqrt")
    assert values[39] == pytest.approx(0.5)
    assert values[9] == pytest.approx(1.0)


def test_warmup_longer_than_the_run_is_refused():
    from mmpt.settings import TrainingSettings

    with pytest.raises(ValueError, match="60 steps of warm-up in a run of 30"):
        TrainingSettings(steps=30, optimizer=OptimizerSettings(learning_rate=1.0, warmup_steps=60))
