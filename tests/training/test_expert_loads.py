"""Counts of experts -> the tables and figures of the log, and warnings that name experts."""

import json
import warnings

import pytest

from mmpt.training.expert_loads import (
    DeadExpertWarning,
    FullExpertWarning,
    LoadWatch,
    apart,
    figures_of,
    plain,
    told,
)

K = 2


def counted(block, dropped=0.0, entropy=0.5, **streams):
    """What a trunk says of a block whose streams chose these experts so often, two a token."""
    total, sums = float(sum(map(sum, streams.values()))), {}
    for stream, counts in streams.items():
        tokens = sum(counts) / K
        sums[f"experts/dropped/{block}/{stream}"] = dropped * sum(counts), float(sum(counts))
        sums[f"experts/entropy/{block}/{stream}"] = entropy * tokens, tokens
        sums |= {f"experts/load/{block}/{n}/{stream}": (float(count), total) for n, count in enumerate(counts)}
    return sums


def blocks_of(*counts, **streams):
    sums = {name: own for one in counts for name, own in one.items()} or counted(2, **streams)
    return apart(sums)[1]


def test_other_figures_are_left_as_they_are():
    others, blocks = apart({"image/loss": (1.0, 2.0), **counted(2, image=[3, 3]), "experts/balance": (1.0, 1.0)})
    assert others == {"image/loss": (1.0, 2.0), "experts/balance": (1.0, 1.0)}
    assert list(blocks) == [2]
    assert apart({"image/loss": (1.0, 2.0)})[1] == {}
    assert figures_of({}) == plain({}) == {}


def test_even_loads_are_one_and_tell_nothing_of_the_stream():
    figures = figures_of(blocks_of(image=[3, 3, 3, 3], text=[1, 1, 1, 1]))
    assert figures["experts/load_max"] == pytest.approx(1)
    assert figures["experts/load_min"] == pytest.approx(1)
    assert figures["experts/stream_information"] == pytest.approx(0, abs=1e-9)


def test_experts_of_one_stream_tell_everything():
    figures = figures_of(blocks_of(image=[6, 2, 0, 0], text=[0, 0, 1, 7]))
    assert figures["experts/stream_information"] == pytest.approx(1)
    assert figures["experts/load_max"] == pytest.approx(7 / 4)
    assert figures["experts/load_min"] == pytest.approx(1 / 4)
    assert figures["experts/image/load_max"] == pytest.approx(3)
    assert figures["experts/text/load_max"] == pytest.approx(3.5)


def test_drop_share_and_entropy_are_of_all_tokens_and_of_each_stream_s():
    first = counted(2, dropped=0.5, entropy=0.2, image=[6, 6]) | counted(2, dropped=0.1, entropy=0.8, text=[2, 2])
    figures = figures_of(blocks_of(first, counted(3, image=[6, 6], text=[2, 2])))
    assert figures["experts/dropped"] == pytest.approx((0.5 * 12 + 0.1 * 4) / 32)
    assert figures["experts/entropy"] == pytest.approx((0.2 * 6 + 0.8 * 2 + 0.5 * 8) / 16)
    assert figures["experts/image/dropped"] == pytest.approx(0.25)
    assert figures["experts/text/entropy"] == pytest.approx(0.65)


def test_the_worst_block_counts_and_experts_beyond_nine_keep_their_stream():
    counts = [1] * 11 + [5]
    blocks = blocks_of(counted(3, image=[2] * 12, text=[2] * 12), counted(4, image=counts, text=counts[::-1]))
    figures = figures_of(blocks)
    assert figures["experts/load_max"] == pytest.approx(6 / (32 / 12))
    assert figures["experts/image/load_max"] == pytest.approx(5 / (16 / 12))
    assert 0 < figures["experts/stream_information"] < 0.5


def test_a_stream_that_did_not_come_has_no_figure():
    blocks = blocks_of(image=[6, 2], text=[0, 0])
    figures = figures_of(blocks)
    assert figures.keys() == {f"experts/{name}" for name in ("dropped", "entropy", "load_max", "load_min")}
    assert figures["experts/load_max"] == pytest.approx(1.5)
    assert list(plain(blocks)["2"]) == ["image"]
    assert blocks_of(image=[0, 0], text=[0, 0]) == {}


def test_the_log_has_loads_drop_share_and_entropy_by_block_and_stream():
    record = plain(blocks_of(counted(2, image=[6, 2]), counted(3, dropped=0.25, image=[4, 4], text=[1, 3])))
    even = {"tokens": 4, "load": [1.0, 1.0], "dropped": 0.25, "entropy": 0.5}
    assert record["2"] == {"image": {"tokens": 4, "load": [1.5, 0.5], "dropped": 0.0, "entropy": 0.5}}
    assert record["3"] == {"image": even, "text": {"tokens": 2, "load": [0.5, 1.5], "dropped": 0.25, "entropy": 0.5}}
    assert json.loads(json.dumps(record)) == record


def test_a_line_names_the_fullest_and_the_emptiest_expert():
    blocks = blocks_of(counted(2, dropped=0.25, image=[6, 2, 4, 4]), counted(3, dropped=0.25, image=[4, 4, 1, 7]))
    line = "experts: dropped 0.25  entropy 0.50  most 1.75 (block 3, expert 3)  least 0.25 (block 3, expert 2)"
    assert told(blocks) == line


# ---- warnings


EVEN = {"image": [4, 4, 4, 4], "text": [2, 2, 2, 2]}
IDLE = {"image": [6, 0, 5, 5], "text": [2, 0, 3, 3]}
CROWDED = {"image": [8, 2, 2, 4], "text": [2, 2, 2, 2]}


def watched(*lines, watch=None):
    watch = watch or LoadWatch()
    return [watch.look(blocks_of(**line) if line else {}) for line in lines]


@pytest.mark.parametrize(
    ("uneven", "kind", "sentence"),
    [
        (IDLE, DeadExpertWarning, r"^block 2, expert 1: no stream uses it \(less than 0\.01 of a fair share"),
        (CROWDED, FullExpertWarning, r"^block 2, expert 0 gets 1\.67 fair shares .* 1\.50 .* 80% of them of image"),
    ],
)
def test_uneven_loads_are_told_once_by_name_and_only_where_they_last(uneven, kind, sentence):
    assert not any(watched(uneven, uneven, EVEN, uneven, uneven, EVEN))
    with pytest.warns(kind, match=sentence) as caught:
        said = watched(EVEN, uneven, uneven, uneven, uneven, EVEN, uneven, uneven, uneven)
    assert [len(sentences) for sentences in said] == [0] * 3 + [1] + [0] * 5
    assert [str(warning.message) for warning in caught] == said[3]
    assert "raise training.balance_weight" in said[3][0]


def test_one_warning_silences_no_other_expert_block_or_kind_nor_comes_again_after_going_on():
    watch, first = LoadWatch(), [4, 0, 4, 4, 4, 4, 4, 4]
    with pytest.warns(DeadExpertWarning, match="^block 2, expert 1: no stream uses it"):
        watched(*[{"image": first}] * 3, watch=watch)
    watch = LoadWatch(**json.loads(json.dumps(watch.state())))
    both = blocks_of(counted(2, image=first), counted(3, image=[0, 0, *first[2:]]))
    with pytest.warns(DeadExpertWarning, match="^block 3, expert 0; block 3, expert 1: no stream uses them"):
        assert [len(watch.look(both)) for _ in range(4)] == [0, 0, 1, 0]
    with pytest.warns(FullExpertWarning, match="^block 2, expert 2 gets 3.20 fair shares"):
        watched(*[{"image": [4, 0, 14, 4, 4, 4, 4, 1]}] * 3, watch=watch)


@pytest.mark.parametrize(
    ("experts", "k", "limit"),
    [(2, 1, 1.5), (4, 1, 2.5), (4, 2, 1.5), (8, 2, 2.5), (16, 2, 4.0), (32, 2, 4.0), (2, 2, 1.0)],
)
def test_the_limit_can_be_reached_by_few_experts(experts, k, limit):
    """Half-way between a fair share and all tokens, of which an expert gets each once."""
    tokens = 600
    rest = (k - 1) * tokens / max(experts - 1, 1)
    sums = counted(2, image=[tokens, *[rest] * (experts - 1)])
    sums["experts/entropy/2/image"] = 0.0, float(tokens)
    (block,) = apart(sums)[1].values()
    assert block.most == pytest.approx(limit)
    assert block.shares.max() == pytest.approx(experts / k)
    assert block.shares.max() > limit or experts == k


def test_even_loads_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(watched(EVEN, EVEN, EVEN, EVEN))
