from pathlib import Path

import pytest

from mmpt.data.source import SourceSettings
from mmpt.errors import DataError
from mmpt.settings import DataSettings
from mmpt.training.guards import BadSamples, NonFinite, NonFiniteError


def settings(**given) -> DataSettings:
    sources = {"a": SourceSettings(shards=Path("shards"), streams=("text",))}
    return DataSettings(sources=sources, batch_size=8, **given)


def test_a_few_bad_samples_are_counted_and_let_pass():
    bad = BadSamples(settings(max_bad_share=0.5))
    for _ in range(50):
        bad.count(seen=10, bad=1, last="x")
    assert (bad.seen, bad.bad) == (500, 50)


def test_past_the_stated_share_the_run_stops_and_says_so():
    bad = BadSamples(settings(max_bad_share=0.05))
    for _ in range(9):
        bad.count(seen=10, bad=1, last="shard-0.tar: sample 7")
    with pytest.raises(DataError, match=r"10 of 100 samples could not be read, more than data.max_bad_share=0.05"):
        bad.count(seen=10, bad=1, last="shard-0.tar: sample 7")


def test_many_in_a_row_stop_the_run():
    bad = BadSamples(settings(max_bad_share=1.0, max_bad_in_a_row=100))
    for _ in range(12):
        bad.count(seen=8, bad=8, last="x")
    with pytest.raises(DataError, match="104 samples in a row"):
        bad.count(seen=8, bad=8, last="x")


def test_a_good_sample_ends_the_row():
    bad = BadSamples(settings(max_bad_share=1.0, max_bad_in_a_row=20))
    for _ in range(5):
        bad.count(seen=8, bad=8, last="x")
        bad.count(seen=8, bad=0, last="x")
        assert bad.in_a_row == 0


def test_non_finite_updates_stop_the_run_only_in_a_row():
    guard = NonFinite(3)
    for finite in (False, False, True, False, False):
        guard.count(0, finite)
    assert guard.total == 4
    with pytest.raises(NonFiniteError, match=r"step 9: .* 3 times in a row"):
        guard.count(9, False)
