"""The same people in training and in what judges it are found wherever they come from."""

import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from walks import walk

from mmpt.data.manifest import load_manifest, save_manifest
from mmpt.errors import DataError
from mmpt.finetune.examples import examples_of
from mmpt.finetune.groups import check_groups


def found(train, validation, test=None, *, allowed=False):
    sides = {"train": train, "validation": validation, "test": test}
    sides = {purpose: data for purpose, data in sides.items() if data is not None}
    return check_groups(
        {purpose: examples_of(data, ["text", "image"], label=None, split=purpose) for purpose, data in sides.items()},
        allowed=allowed,
    )


def rows(*groups):
    return [{"text": "a path", "group": group} for group in groups]


@pytest.fixture(scope="module")
def copy(shards, tmp_path_factory):
    """Byte for byte, and divided the other way round: validation are the samples of training."""
    folder = shutil.copytree(shards, tmp_path_factory.mktemp("copies") / "walks")
    manifest = load_manifest(folder)
    other = {"train": "validation", "validation": "train", "test": "test"}
    splits = pa.array([other[own] for own in manifest.column("split")], pa.string())
    place = manifest.samples.column_names.index("split")
    save_manifest(replace(manifest, samples=manifest.samples.set_column(place, "split", splits)))
    return folder


def test_a_copy_of_a_data_set_is_that_data_set(shards, copy):
    assert found(shards / "train", shards / "validation", shards / "test") == []
    assert found(shards / "train", copy / "train") == []
    with pytest.raises(DataError, match=r"36 groups are in train and in validation \('day 0' for one\)"):
        found(shards / "train", copy / "validation")


def test_a_list_or_a_frame_may_be_of_the_data_sets_people(shards):
    with pytest.raises(DataError, match=r"1 groups are in train and in validation \('day 5' for one\)"):
        found(shards / "train", rows("day 5", "day 3"))
    with pytest.raises(DataError, match=r"1 groups are in train and in test \('day 3' for one\)"):
        found(pd.DataFrame(rows("day 0", "day 3")), rows("day 4"), shards / "validation")
    assert found(shards / "train", rows("day 3")) == []
    assert found([{"text": "a"}] * 3, [{"text": "a"}] * 3) == []


@pytest.mark.parametrize("same", [2.0, "2", "2.0", np.int32(2), np.float32(2)])
def test_a_number_is_one_group_however_it_is_written(same):
    with pytest.raises(DataError, match=r"\('2' for one\)"):
        found(rows(1, 2), rows(same))
    assert found(rows("v2.0", 1.5), rows("v2", 1)) == []


def test_validation_and_test_are_compared_as_well():
    with pytest.raises(DataError, match=r"1 groups are in validation and in test \('b' for one\).*allow_shared_groups"):
        found(rows("a"), rows("b"), rows("b", "c"))


def test_what_is_allowed_is_told_of_for_every_two_purposes():
    told = found(rows("a", "b"), rows("b"), rows("a", "b"), allowed=True)
    pairs = combinations(("train", "validation", "test"), 2)
    assert told == [
        f"{count} groups are in {one} and in {other}: scores are too good"
        for count, (one, other) in zip((1, 2, 1), pairs, strict=True)
    ]


def test_other_data_sets_may_have_the_same_names(shards, write_shards, tmp_path):
    named, unnamed = ([{"image": walk(n)["image"], "__split__": "validation"} for n in (8, 9)] for _ in range(2))
    for own, group in zip(named, ("day 0", "day 1"), strict=True):
        own["__group__"] = group
    for folder, samples in (("named", named), ("unnamed", unnamed)):
        write_shards(tmp_path / folder, samples, image="png")
    (told,) = found(shards / "train", tmp_path / "named")
    assert told.startswith("2 groups are in train and in validation by name ('day 0' for one): if these data sets are")
    assert found(tmp_path / "unnamed" / "validation", tmp_path / "unnamed" / "validation", allowed=True)
    assert found(tmp_path / "unnamed" / "validation", shards / "validation") == []
