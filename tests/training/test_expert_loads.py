"""Counts of experts -> the figures of the log, and the one warning."""

import warnings

import pytest

from mmpt.training.expert_loads import ExpertLoadWarning, LoadWatch, folded


def loads(layer, **streams):
    """Shares of a layer's choices, from counts."""
    total = sum(map(sum, streams.values()))
    return {
        f"experts/load/{layer}/{expert}/{stream}": count / total
        for stream, counts in streams.items()
        for expert, count in enumerate(counts)
    }


def test_even_loads_are_one_and_tell_nothing_of_the_stream():
    figures = folded({"image/loss": 0.5, **loads(2, image=[3, 3, 3, 3], text=[1, 1, 1, 1])})
    assert figures["image/loss"] == 0.5
    assert figures["experts/load_max"] == pytest.approx(1)
    assert figures["experts/load_min"] == pytest.approx(1)
    assert figures["experts/stream_information"] == pytest.approx(0, abs=1e-9)
    assert not any(name.startswith("experts/load/") for name in figures)


def test_experts_of_one_stream_tell_everything():
    figures = folded(loads(2, image=[6, 2, 0, 0], text=[0, 0, 1, 7]))
    assert figures["experts/stream_information"] == pytest.approx(1)
    assert figures["experts/load_max"] == pytest.approx(7 / 4)
    assert figures["experts/load_min"] == pytest.approx(1 / 4)
    assert figures["experts/image/load_max"] == pytest.approx(3)
    assert figures["experts/text/load_max"] == pytest.approx(3.5)


def test_the_worst_layer_counts_and_experts_beyond_nine_keep_their_stream():
    counts = [1] * 11 + [5]
    figures = folded(loads(3, image=[2] * 12, text=[2] * 12) | loads(4, image=counts, text=counts[::-1]))
    assert figures["experts/load_max"] == pytest.approx(6 / (32 / 12))
    assert figures["experts/image/load_max"] == pytest.approx(5 / (16 / 12))
    assert 0 < figures["experts/stream_information"] < 0.5


def test_a_stream_that_did_not_come_has_no_figure():
    figures = folded(loads(2, image=[6, 2], text=[0, 0]))
    assert "experts/text/load_max" not in figures
    assert "experts/stream_information" not in figures
    assert figures["experts/load_max"] == pytest.approx(1.5)
    assert folded(loads(2, image=[1, 1]) | {"experts/load/2/0/image": 0.0, "experts/load/2/1/image": 0.0}) == {}


def watched(*lines):
    watch = LoadWatch()
    return [watch.look(line) for line in lines]


EVEN, IDLE, CROWDED = (
    {"experts/load_min": low, "experts/load_max": high} for low, high in ((0.5, 1.4), (0.001, 1.4), (0.5, 4.5))
)


@pytest.mark.parametrize("uneven", [IDLE, CROWDED])
def test_uneven_loads_are_told_once_and_only_where_they_last(uneven):
    assert watched(uneven, uneven, EVEN, uneven, uneven, {"learning_rate": 0.1}) == [""] * 6
    with pytest.warns(ExpertLoadWarning, match=r"raise training\.balance_weight") as caught:
        said = watched(EVEN, uneven, uneven, uneven, uneven, EVEN, uneven, uneven, uneven)
    assert [bool(sentence) for sentence in said] == [False] * 3 + [True] + [False] * 5
    assert len(caught) == 1


def test_even_loads_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert watched(EVEN, EVEN, EVEN, EVEN) == [""] * 4
