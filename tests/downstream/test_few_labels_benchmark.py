"""benchmarks/downstream.py: both sides have the same choice of settings, and a value is read once."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from walks import walk

import mmpt

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("downstream")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, write_shards):
    samples = [walk(number) for number in range(50)]
    own = [sample | {"labels": {"label": sample["labels"]["place"]}} for sample in samples]
    folder = tmp_path_factory.mktemp("labelled")
    write_shards(folder / "images", own)
    return folder


def test_it_tells_every_side_with_the_same_grid_and_what_the_validation_split_chose(benchmark, run, labelled, capsys):
    given = "--streams image --share 0.4 --seeds 2 --search 1 --updates 1 --validation 8 --rates 1e-2 1e-3 --decays 0.5"
    benchmark.main([str(run), str(labelled), *given.split()])
    told = capsys.readouterr().out
    fits = re.findall(r"image, (pretrained|from scratch), (\S+ x \S+): validation (.+)", told)
    scores = {}
    for side, pair, numbers in fits:
        scores.setdefault(side, {}).setdefault(pair, []).extend(map(float, numbers.split(", ")))
    assert list(scores) == ["pretrained", "from scratch"]
    chosen = []
    for own in scores.values():
        assert list(own) == ["0.01 x 0.5", "0.001 x 0.5"]
        best = max(own, key=lambda pair: own[pair][0])
        assert {pair: len(every) for pair, every in own.items()} == {pair: 1 + (pair == best) for pair in own}
        assert {f"{score:.3f}" for every in own.values() for score in every} <= {f"{n / 8:.3f}" for n in range(9)}
        chosen.append(best)
    assert ", ".join(chosen) in " ".join(told.split())
    assert re.search(r"pretrained is ahead of scratch on [01] of 1", told)


def test_a_value_is_read_once_unless_it_is_read_otherwise_every_time(benchmark, run):
    encoder, plain = benchmark.encoder_of(run, untrained=False), mmpt.load(run)
    mine, theirs = encoder.modalities["image"], plain.modalities["image"]
    value = walk(1)["image"].convert("RGB")
    first = mine.read(value, 0, mine.limit, None)
    assert mine.read(value, 0, mine.limit, None) is first
    assert np.array_equal(first, theirs.read(value, 0, theirs.limit, None))
    assert np.array_equal(mine.read(value, 0, mine.limit, 7), theirs.read(value, 0, theirs.limit, 7))
    assert not np.array_equal(mine.read(value, 0, mine.limit, 7), first)
