"""False pairs: which texts stand in, that they reach the batch, and that rows say so."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from material import prose
from sklearn.feature_extraction.text import TfidfVectorizer

from mmpt.build import build_modalities
from mmpt.config import component
from mmpt.data.batches import MicroBatches, share_of
from mmpt.data.far_negatives import FarNegatives, NegativesSettings, _farthest
from mmpt.data.manifest import load_manifest
from mmpt.data.source import Source, SourceSettings
from mmpt.encoders import Facts, Modality
from mmpt.errors import ConfigError

STEPS, ROWS = 6, 8


@pytest.fixture(scope="module")
def source(shards):
    manifest = load_manifest(shards / "images")
    facts = {
        name: Facts(shards / "images", manifest.fields[name].facts, manifest.statistics[name])
        for name in ("text", "image")
    }
    parts = {
        "text": component(Modality, "text", max_length=24),
        "image": component(Modality, "image", size=16, patch=8),
    }
    modalities = build_modalities(parts, facts)

    def make(stream=None, **settings):
        negatives = None if stream is None else NegativesSettings(stream=stream, **settings)
        pairs = SourceSettings(shards=shards / "images", streams=("image", "text"), negatives=negatives)
        return Source("pairs", 0, pairs, modalities, 0)

    return make


def batches(source):
    return [MicroBatches([source], [1.0], STEPS, 0, share_of(ROWS, None, 0, 1))[step].batch for step in range(STEPS)]


def test_candidates_are_the_farthest_texts():
    texts = [prose(number) for number in range(700)]  # more than a chunk
    far = _farthest(texts, 5, 0, "here")
    assert far.shape == (700, 5)
    vectors = TfidfVectorizer(dtype=np.float32).fit_transform(texts)
    like = (vectors @ vectors.T).toarray()
    for row in (0, 511, 512, 699):
        assert row not in far[row]
        np.testing.assert_allclose(np.sort(like[row, far[row]]), np.sort(like[row])[:5], atol=1e-6)


def test_texts_that_say_the_same_are_no_negatives():
    far = _farthest(["one two", "three four", "one two", "two one", "five"], 64, 0, "here")
    assert [set(row) for row in far[[0, 2, 3]]] == [{1, 4}] * 3
    assert far.shape == (5, 2)
    wordless = _farthest(["?", "one", "?", "two"], 64, 0, "here")
    assert set(wordless[0]) == set(wordless[2]) == {1, 3}


def test_equally_far_texts_take_turns():
    texts = [f"word{number}" for number in range(2000)]
    counts = Counter(_farthest(texts, 4, 0, "here").flatten().tolist())
    assert len(counts) > 12  # the order of ties differs from chunk to chunk


def test_a_false_pair_has_the_tokens_of_another_text_and_its_own_picture(source):
    plain, mixed = batches(source()), batches(source("text", share=0.5, candidates=4))
    own = 0
    for before, after in zip(plain, mixed, strict=True):
        assert before.matched is None
        assert torch.equal(before.uid, after.uid)
        assert torch.equal(before.streams["image"].values, after.streams["image"].values)
        width = min(one.streams["text"].values.shape[1] for one in (before, after))
        same = (before.streams["text"].values[:, :width] == after.streams["text"].values[:, :width]).all(1)
        assert torch.equal(same, after.matched)
        own += int(after.matched.sum())
    assert 0.3 < own / (STEPS * ROWS) < 0.7


def test_what_stands_in_is_drawn_anew_in_each_epoch_and_the_same_each_time(source):
    one = source("text", candidates=4).negatives
    sample = int(one.samples[3])
    chosen = [one.instead_of(sample, draw * 7919) for draw in range(200)]
    assert chosen == [source("text", candidates=4).negatives.instead_of(sample, draw * 7919) for draw in range(200)]
    assert 60 < chosen.count(None) < 140
    assert set(chosen) - {None} == set(one.far[3].tolist())


def test_an_unreadable_text_stands_in_for_none_and_stops_nothing(shards, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(shards / "images", folder)
    manifest = load_manifest(folder)
    samples = manifest.split_rows("train")
    broken = int(samples[0])
    with (folder / manifest.shards[manifest.column("shard")[broken]].name).open("r+b") as file:
        file.seek(int(manifest.column("text.offset")[broken]))
        file.write(b"\0")
    negatives = FarNegatives(NegativesSettings(stream="text"), load_manifest(folder), samples, 0, "here")
    assert broken not in negatives.far
    assert {negatives.instead_of(broken, draw * 7919) for draw in range(20)} == {None}
    assert set(negatives.samples.tolist()) == set(samples.tolist()) - {broken}


def test_wrong_negatives_are_refused_with_a_sentence(source):
    with pytest.raises(ConfigError, match=r"data\.sources\.pairs\.negatives\.stream: .* 'image' is image"):
        source("image")
    with pytest.raises(ValueError, match="expected one of several streams, got speech"):
        source("speech")
    with pytest.raises(ValueError, match="share: expected above 0 and below 1"):
        NegativesSettings(stream="text", share=1.0)
    with pytest.raises(ConfigError, match="no other that differs"):
        _farthest(["the same", "the same"], 4, 0, "here")
    with pytest.raises(ConfigError, match="no text has a word"):
        _farthest(["?", "!"], 4, 0, "here")
