from pathlib import Path

import pytest

from mmpt.data.source import SourceSettings
from mmpt.errors import DataError
from mmpt.settings import DataSettings
from mmpt.training.guards import BadSamples, NonFinite, NonFiniteError


def settings(**given) -> DataSettings:
    sources = {"a": SourceSettings(shards=Path("shards"), streams=("text",))}
    return DataSettings(sources=sources, batch_size=8, **given)


def count(bad, readable, last="x"):
    """A step of one rank."""
    row = bad.look(readable)
    bad.count(len(readable), readable.count(False), too_many_in_a_row=row, last=last)


def test_a_few_bad_samples_are_counted_and_let_pass():
    bad = BadSamples(settings(max_bad_share=0.5))
    for _ in range(50):
        count(bad, [True] * 9 + [False])
    assert (bad.seen, bad.bad) == (500, 50)


def test_past_the_stated_share_the_run_stops_and_says_so():
    bad = BadSamples(settings(max_bad_share=0.05))
    for _ in range(9):
        count(bad, [True] * 9 + [False])
    with pytest.raises(DataError, match=r"10 of 100 samples could not be read, more than data.max_bad_share=0.05"):
        count(bad, [True] * 9 + [False], "shard-0.tar: sample 7")


def test_many_in_a_row_stop_the_run():
    bad = BadSamples(settings(max_bad_share=1.0, max_bad_in_a_row=100))
    for _ in range(12):
        count(bad, [False] * 8)
    with pytest.raises(DataError, match="100 samples in a row"):
        count(bad, [False] * 4 + [True] * 4)


def test_a_good_sample_ends_the_row_wherever_in_a_step_it_stands():
    bad = BadSamples(settings(max_bad_share=1.0, max_bad_in_a_row=20))
    for _ in range(20):
        count(bad, [False] * 8 + [True] + [False] * 8)
    assert bad.in_a_row == 8


def test_non_finite_updates_stop_the_run_only_in_a_row():
    guard = NonFinite(3)
    for finite in (False, False, True, False, False):
        guard.count(0, finite)
    assert guard.total == 4
    with pytest.raises(NonFiniteError, match=r"step 9: .* 3 times in a row"):
        guard.count(9, False)
