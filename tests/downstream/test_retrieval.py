"""Ranks, chance, and who counts as right."""

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from walks import make_run, walk

import mmpt
from mmpt.data.manifest import load_manifest
from mmpt.downstream.classify import SCORES
from mmpt.downstream.result import Interval
from mmpt.downstream.retrieval import (
    RANKS,
    ZeroShot,
    _check_prompts,
    _direction,
    _side,
    chance,
    features_of,
    first_ranks,
    retrieve,
    zero_shot,
)
from mmpt.errors import DataError


def test_a_rank_counts_what_is_wrong_and_at_least_as_similar():
    similarity = np.array([[0.9, 0.5, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2], [0.1, 0.4, 0.3, 0.2]])
    right = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], dtype=bool)
    assert first_ranks(similarity, right).tolist() == [3, 4, 2]


def test_chance_is_the_share_of_all_orders():
    for right, k in itertools.product((1, 2, 3), (1, 2, 6, 9)):
        orders = list(itertools.permutations(range(6)))
        hits = [min(order[:k]) < right for order in orders]
        assert chance(np.array([right]), 6, k) == pytest.approx(np.mean(hits))


def test_equal_texts_are_one_item_and_all_of_its_pairs_are_right():
    codes = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    texts = ["a", "b", "a", "b", "b"]
    text = _side("text", texts, lambda _, values: np.array([codes[value] for value in values]))
    ecg = _side("ecg", [object() for _ in texts], lambda _, values: np.array([codes[t] for t in texts]))
    for one, other, queries, among in ((ecg, text, 5, 2), (text, ecg, 2, 5)):
        found = _direction("any", one, other, 0)
        assert (found.queries, found.among) == (queries, among)
        assert [found.recall[k].value for k in RANKS] == [1.0] * 3
    ecg = ecg._replace(features=ecg.features[[1, 0, 1, 0, 0]])
    assert _direction("any", ecg, text, 0).recall[1].value == 0.0


def test_a_run_without_contrast_is_searched_by_its_latents(run, shards):
    found = retrieve(run, shards, ("image", "text"))
    assert found.features.endswith("mean latents")
    for way in found.directions:
        assert all(0 <= way.recall[k].low <= way.recall[k].value <= way.recall[k].high <= 1 for k in RANKS)
        assert way.recall[1].value <= way.recall[5].value <= way.recall[10].value


EMBEDDING = """
streams:
  text: {type: text, max_length: 24}
  image: {type: image, size: 16, patch: 4}
trunk: {type: transformer, width: 16, depth: 1, heads: 2}
objective: {type: embedding, apart: true, pool: class}
data:
  sources:
    walks: {shards: SHARDS, streams: [image, text]}
  batch_size: 4
training:
  steps: 1
  optimizer: {learning_rate: 1e-3}
"""


def test_what_is_searched_is_what_encode_gives_and_a_run_of_embeddings_was_trained_for(run, shards, tmp_path):
    samples = [sample for sample in map(walk, range(12)) if {"image", "text"} <= sample.keys()]
    classes = make_run(tmp_path / "classes", shards, (1,), EMBEDDING)
    for folder, told in ((run, "mean latents"), (classes, "latents pooled by class")):
        encoder = mmpt.load(folder)
        describe, features = features_of(encoder, ("image", "text"))
        assert features.endswith(told)
        for name in ("image", "text"):
            own = ({name: sample[name]} for sample in samples)
            wanted = encoder.encode(own, pool="class" if folder is classes else "mean")
            found = describe(name, [sample[name] for sample in samples])
            np.testing.assert_allclose(found, torch.nn.functional.normalize(wanted, dim=1).numpy(), atol=1e-6)


def test_the_uncut_embedding_finds_what_retrieve_does_and_a_cut_is_of_unit_length(run, shards, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    cuts = importlib.import_module("cuts")
    ways = retrieve(run, shards, ("image", "text")).directions
    for k in RANKS:
        cuts.main([str(run), str(shards), "--streams", "image,text", "--widths", "4", "--k", str(k)])
        rows = [line.strip("│").split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
        assert [row[0].strip() for row in rows] == ["1", "2"]
        assert rows[1][2].strip() == " / ".join(f"{way.recall[k].value:.3f}" for way in ways)
    vectors = torch.tensor([[3.0, 4.0, 9.0], [4.0, -3.0, 9.0]])
    assert cuts.cut(vectors, 2).tolist() == pytest.approx(np.array([[0.6, 0.8], [0.8, -0.6]]))
    assert cuts.alike(vectors[:, :2]) == pytest.approx(0.0, abs=1e-6)


def test_what_can_not_be_searched_is_refused(run, shards):
    with pytest.raises(DataError, match="has no 'speech'"):
        retrieve(run, shards, ("image", "speech"))
    with pytest.raises(DataError, match="no split 'nowhere'"):
        retrieve(run, shards, ("image", "text"), split="nowhere")
    with pytest.raises(DataError, match="prompts are texts, and 'image' is no text stream"):
        zero_shot(run, shards, ("text", "image"), label="any", prompts={})


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"a": "x"}, "none for class 'b'"),
        ({"a": "x", "b": "y", "c": "z"}, "no class 'c'; it has a, b"),
        ({"a": [], "b": "y"}, r"prompts\.a: expected a text or a list"),
        ({"a": 3, "b": "y"}, r"prompts\.a: expected a text or a list"),
    ],
)
def test_prompts_have_to_name_all_classes(prompts, said, shards):
    with pytest.raises(DataError, match=said):
        _check_prompts(prompts, ("a", "b"), load_manifest(shards), "kind")


@pytest.mark.parametrize(("unlabelled", "said"), [(24, "24 samples without the label were left out"), (0, None)])
def test_the_table_says_how_many_samples_had_no_label(unlabelled, said):
    even = dict.fromkeys(SCORES, Interval(0.5, 0.4, 0.6))
    caption = ZeroShot("any", 10, unlabelled, even, even).table().caption
    assert (caption and str(caption)) == said
