"""Samples without splits are divided by group and class, and fits are repeated with other seeds."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from walks import walk

import mmpt
from mmpt.errors import ConfigError, DataError
from mmpt.finetune import Classifier, repeat, split


def rows(count):
    """Two classes, one three times as frequent; four samples a group."""
    return [{"text": f"{n}", "place": "sea" if n // 4 % 4 else "hill", "group": f"day {n // 4}"} for n in range(count)]


def test_every_part_has_whole_groups_and_its_share_of_each_class():
    samples = rows(480)
    parts = split(samples, label="place", shares=(0.7, 0.1, 0.2), seed=3)
    assert [len(own) / len(samples) for own in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    groups = [{row["group"] for row in own} for own in parts]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 120
    for own in parts:
        assert Counter(row["place"] for row in own)["hill"] / len(own) == pytest.approx(0.25, abs=0.1)
    assert sorted(int(row["text"]) for own in parts for row in own) == list(range(480))
    assert split(samples, label="place", seed=3) == split(pd.DataFrame(samples), label="place", seed=3)
    assert split(samples, label="place", seed=3) != split(samples, label="place", seed=4)


def test_numbers_are_divided_by_their_fifths_and_rare_classes_do_no_harm():
    random = np.random.default_rng(0)
    numbers = [{"x": "a", "height": float(own)} for own in random.lognormal(size=400)]
    parts = split(numbers, label="height", shares=(0.5, 0.25, 0.25))
    medians = [np.median([row["height"] for row in own]) for own in parts]
    assert medians == pytest.approx([medians[0]] * 3, rel=0.15)
    rare = [{"x": "a", "kind": "b" if n else "once", "tags": ["c"]} for n in range(40)]
    assert [len(own) for own in split(rare, label="kind")] == [32, 4, 4]
    assert [len(own) for own in split(rare, label="tags", shares=(0.75, 0.25, 0))] == [30, 10, 0]


def test_what_can_not_be_divided_is_refused():
    with pytest.raises(ConfigError, match="shares: expected three that add up to 1, the first above 0"):
        split(rows(40), shares=(0.5, 0.6, 0.1))
    with pytest.raises(DataError, match="2 groups can't be divided into 3 parts"):
        split(rows(8))
    with pytest.raises(DataError, match="no sample has a label 'plce'; did you mean 'place'"):
        split(rows(40), label="plce")
    with pytest.raises(DataError, match="expected a list of dicts, a dict of columns or a DataFrame, got str"):
        split("shards")


def test_repeats_tell_mean_and_deviation_over_seeds(run):
    samples = [
        {"image": walk(n)["image"], "place": walk(n)["labels"]["place"], "group": walk(n)["__group__"]}
        for n in range(100)
    ]
    parts = split(samples, label="place")
    task = Classifier(mmpt.load(run), label="place", inputs=["image"])
    settings = {"test": parts.test, "epochs": 1, "batch_size": 16, "learning_rate": 1e-2}
    found = repeat(task, parts.train, parts.validation, seeds=[1, 5], **settings)
    assert task.model is None
    values = [own.test["accuracy"].value for own in found.fits.values()]
    assert found.test()["accuracy"] == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    again = task.fit(parts.train, parts.validation, seed=5, **settings)
    assert again.metrics == found.fits[5].metrics
    assert "over seeds 1, 5" in str(found)
    with pytest.raises(ConfigError, match="seeds: expected two or more that differ, got 1, 1"):
        repeat(task, parts.train, parts.validation, seeds=[1, 1])
