"""Labels that units are held against: of samples, or of frames at a rate of their own."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from mmpt.data.schema import declare
from mmpt.data.writer import ShardWriter
from mmpt.downstream.units.given import open_given
from mmpt.downstream.units.quality import Tally
from mmpt.errors import DataError

PHONES = [np.array([3, 3, 900_000_000, 5, -1, 5]), np.array([1, 2, 3]), np.array([0.5, 1.0])]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three samples: 0.12 s and 0.06 s of labels at 50 a second, and what is no label; the last has no sample label."""
    fields = {
        "phones": declare("phones", "phones.npy", rate="50"),
        "cells": declare("cells", "cells.npy"),
        "wrong": declare("wrong", "wrong.npy", rate="often"),
        "labels": declare("labels", "json"),
    }
    with ShardWriter(tmp_path_factory.mktemp("given") / "data", fields) as writer:
        for number, phones in enumerate(PHONES):
            of_sample = {"voice": ["b", "a"][number]} if number < 2 else {}
            marks = {"__key__": f"{number}", "__group__": f"{number}", "__split__": "train"}
            writer.write({"phones": phones, "cells": phones, "wrong": phones, "labels": of_sample, **marks})
    return writer.manifest


def test_a_frame_takes_the_label_in_force_where_it_begins(data):
    given = open_given(data, [0, 1, 2], "phones")
    np.testing.assert_array_equal(given.of(0, 12, Fraction(100)), np.repeat(PHONES[0], 2))
    np.testing.assert_array_equal(given.of(0, 6, Fraction(50)), PHONES[0])
    np.testing.assert_array_equal(given.of(0, 3, Fraction(25)), PHONES[0][::2])
    np.testing.assert_array_equal(given.of(0, 4, Fraction(100, 3)), PHONES[0][[0, 1, 3, 4]])
    np.testing.assert_array_equal(
        given.of(1, 8, Fraction(100)), [1, 1, 2, 2, 3, 3, 3, 3]
    )  # what is over keeps the last


def test_labels_without_a_rate_are_those_of_tokens(data):
    given = open_given(data, [0], "cells")
    np.testing.assert_array_equal(given.of(0, 6, None), PHONES[0])
    with pytest.raises(DataError, match="0: member 'cells': 6 labels for 5 tokens"):
        given.of(0, 5, None)
    with pytest.raises(DataError, match="units are 50 a second and these labels one a token"):
        given.of(0, 6, Fraction(50))


def test_a_label_of_a_sample_holds_for_all_its_frames(data):
    given = open_given(data, [0, 1, 2], "voice")
    np.testing.assert_array_equal(given.of(0, 3, Fraction(50)), [1, 1, 1])
    np.testing.assert_array_equal(given.of(1, 2, None), [0, 0])
    assert given.of(2, 3, None) is None


def test_labels_that_do_not_fit_are_refused_and_the_sample_is_named(data):
    given = open_given(data, [0, 1, 2], "phones")
    with pytest.raises(DataError, match=r"sample 0: member 'phones': labels for 0\.12 s and units for 0\.30 s"):
        given.of(0, 30, Fraction(100))
    with pytest.raises(DataError, match="sample 2: member 'phones': expected a row of whole numbers"):
        given.of(2, 2, Fraction(50))
    with pytest.raises(DataError, match="field 'wrong' states a rate of 'often', expected a number"):
        open_given(data, [0], "wrong")
    with pytest.raises(DataError, match="no sample has a label 'tone'"):
        open_given(data, [0, 1, 2], "tone")


def test_what_units_tell_of_frames_is_scikit_learn_s_mutual_information():
    rng = np.random.default_rng(0)
    tally, known, told = Tally(7), [], []
    for _ in range(5):
        labels = rng.integers(-1, 4, 50)
        units = np.where(rng.random(50) < 0.5, labels.clip(min=0), rng.integers(0, 7, 50))
        tally.add(units, labels)
        known += labels[labels >= 0].tolist()
        told += units[labels >= 0].tolist()
    shares = np.bincount(known) / len(known)
    quality = tally.quality(None)
    assert quality.pnmi == pytest.approx(mutual_info_score(known, told) / -(shares * np.log(shares)).sum(), rel=1e-9)
    assert quality.frames == 250
