"""Classes for words, frames and patches: what is learned, how labels meet tokens, and what is refused."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from tones import tone
from walks import HILL, SEA, walk

import mmpt
from mmpt.downstream.encoder import CutWarning
from mmpt.errors import ConfigError, DataError
from mmpt.finetune import Classifier, TokenTagger, load
from mmpt.finetune.examples import examples_of
from mmpt.finetune.rows import Rows, known_labels
from mmpt.finetune.words import words_of

KINDS = {**dict.fromkeys(SEA, "sea"), **dict.fromkeys(HILL, "hill")}
QUICK = {"epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def texts(numbers):
    """Words that tell the class have it, those that don't are `other`; a word in ten is not known."""
    found = []
    for number in numbers:
        sample = walk(number)
        if "text" in sample:
            words = sample["text"].split()
            tags = [None if (number + n) % 10 == 0 else KINDS.get(word, "other") for n, word in enumerate(words)]
            found.append({"text": sample["text"], "image": sample["image"], "tags": tags})
    return found


@pytest.fixture(scope="module")
def tagged(encoder):
    """A fit on words."""
    task = TokenTagger(encoder, label="tags", stream="text", words="space")
    return task.fit(texts(range(100)), texts(range(100, 140)), epochs=8, batch_size=8, learning_rate=1e-2)


def test_a_tagger_learns_a_class_for_every_word_and_scores_known_words_alone(tagged):
    assert tagged.metrics["accuracy"].value > 0.9
    assert tagged.metrics["accuracy"].value == pytest.approx(max(e["accuracy"] for e in tagged.history))
    samples = texts(range(100, 140))
    said = tagged.task.predict(samples)
    assert [len(own) for own in said] == [len(sample["tags"]) for sample in samples]
    pairs = [pair for sample, own in zip(samples, said, strict=True) for pair in zip(sample["tags"], own, strict=True)]
    true, guess = zip(*[pair for pair in pairs if pair[0] is not None], strict=True)
    assert tagged.metrics["accuracy"].value == pytest.approx(accuracy_score(true, guess))
    assert tagged.metrics["macro_f1"].value == pytest.approx(f1_score(true, guess, average="macro"))
    assert tagged.trivial["accuracy"] == pytest.approx(max(true.count(name) for name in set(true)) / len(true))


def test_words_keep_their_class_alone_and_in_a_batch_and_after_saving(tagged, tmp_path):
    samples = texts(range(100, 104))
    together = tagged.task.predict_scores(samples)
    again = load(tagged.save(tmp_path / "task"))
    for sample, scores in zip(samples, together, strict=True):
        assert again.predict_scores([sample])[0] == pytest.approx(scores, abs=1e-5)


def test_the_first_piece_of_a_word_counts(encoder):
    tokenizer = encoder.modalities["text"].tokenizer
    text = "The harbourmaster's  old sail, over the cairnfield."
    by_space, by_tokenizer = words_of(tokenizer, text, "space"), words_of(tokenizer, text, "tokenizer")
    assert by_space.words == text.split()
    assert by_tokenizer.words == ["The", "harbourmaster", "'s", "old", "sail", ",", "over", "the", "cairnfield", "."]
    encoding = tokenizer.encode(text, add_special_tokens=False)
    for found in (by_space, by_tokenizer):
        for word, first in zip(found.words, found.first, strict=True):
            start, stop = encoding.offsets[first]
            assert word.startswith(text[start:stop].strip())
            assert text[start:stop].strip()


def test_labels_stand_at_first_pieces_and_words_that_were_cut_off_count_nothing(encoder):
    task = TokenTagger(encoder, label="tags", stream="text", words="space")
    long = " ".join(["harbourmaster"] * 20)
    samples = [{"text": "old harbourmaster", "tags": ["a", "b"]}, {"text": long, "tags": ["a"] * 20}]
    examples = examples_of(samples, ["text"], label="tags", split="train")
    task.facts = task.learn(examples.labels)
    labels = Rows(task, examples, known_labels(task, examples)[0]).batch([0, 1], padding=1).labels
    assert labels.known.sum(1).tolist()[0] == 2
    assert 2 < labels.known.sum(1).tolist()[1] < 20
    assert not labels.known[2].any()
    assert labels.values[0][labels.known[0]].tolist() == [0, 1]
    with pytest.warns(CutWarning, match="words stand behind the encoder's longest piece"):
        Rows(task, examples_of(samples[1:], ["text"], label=None, split="test"), None).batch([0])


def test_patches_have_a_class_each_and_are_never_moved(encoder):
    """The task is whether a patch's blue is above its green."""
    task = TokenTagger(encoder, label="bluer", stream="image", class_weights="balanced")

    def samples(numbers):
        found = []
        for number in numbers:
            picture = walk(number)["image"]
            values = encoder.modalities["image"].read(picture, 0, 1, None)[1:].reshape(16, 16, 3).astype(int)
            found.append({"image": picture, "bluer": (values[:, :, 2].mean(1) > values[:, :, 1].mean(1)).astype(int)})
        return found

    result = task.fit(samples(range(40)), samples(range(40, 60)), epochs=4, batch_size=8, learning_rate=1e-2)
    assert result.metrics["accuracy"].value > 0.9
    rows = Rows(task, examples_of(samples(range(2)), ["image"], label="bluer", split="train"), None, augment=True)
    assert torch.equal(
        rows.batch([0], epoch=1).streams["image"].values, rows.batch([0], epoch=2).streams["image"].values
    )


def test_frames_take_the_class_in_force_where_they_begin(tone_run, tone_shards):
    task = TokenTagger(mmpt.load(tone_run), label="phones", stream="speech", rate=100.0)
    result = task.fit(tone_shards, test=tone_shards, epochs=2, batch_size=8, learning_rate=1e-2)
    assert result.test["accuracy"].value > 0.85 > result.trivial_test["accuracy"] + 0.2
    (said,) = task.predict([{"speech": tone(4)["speech"]}])
    spoken = tone(4)["labels"]["text"].lower().rstrip(".")
    middles = [said[5 * number + 2] for number in range(len(spoken))]
    right = [name == "abc".index(letter) for name, letter in zip(middles, spoken, strict=True) if letter != " "]
    assert np.mean(right) > 0.8
    with pytest.raises(
        ConfigError, match=r"field 'phones' of .* has 100 labels a second, .*one a token; set rate: 100"
    ):
        TokenTagger(mmpt.load(tone_run), label="phones", stream="speech").fit(tone_shards, **QUICK)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tags": ["sea"]}, r"sample 1: label 'tags': 1 classes for \d+ words as 'space' divides them \(\w+, "),
        ({"tags": ["lake"] * 9}, "sample 1: label 'tags': 'lake' is no class of the training samples, which have hill"),
        ({"tags": "sea"}, "sample 1: label 'tags': expected a list of classes, one a word or frame, got 'sea'"),
        ({"tags": [1.5] * 9}, "sample 1: label 'tags': expected the name or number of one class, got 1.5"),
        ({"tags": [float("nan")] * 9}, "sample 1: label 'tags': expected the name or number of one class, got nan"),
        ({"text": None}, "sample 1: label 'tags': the sample has no 'text'"),
    ],
)
def test_labels_that_contradict_their_sample_are_refused_and_it_is_named(encoder, change, sentence):
    validation = texts(range(100, 104))
    validation[1] |= change
    task = TokenTagger(encoder, label="tags", stream="text", inputs=["text", "image"], words="space")
    with pytest.raises(DataError, match=sentence):
        task.fit(texts(range(10)), validation, **QUICK)


def test_what_makes_no_sense_for_a_tagger_is_refused(encoder, tone_run):
    with pytest.raises(ConfigError, match="the encoder has no stream 'sound'; it has text, image"):
        TokenTagger(encoder, label="tags", stream="sound")
    with pytest.raises(ConfigError, match="inputs: 'text' is tagged and not among image; add it"):
        TokenTagger(encoder, label="tags", stream="text", inputs=["image"])
    with pytest.raises(ConfigError, match="rate: labels a second are of sound, and 'text' is a stream of text"):
        TokenTagger(encoder, label="tags", stream="text", rate=50.0)
    task = TokenTagger(encoder, label="tags", stream="text", words="space")
    with pytest.raises(DataError, match="no sample has a label 'tags'; there are image, text"):
        task.fit([{"text": "a", "image": walk(0)["image"]}], texts(range(4)), **QUICK)
    with pytest.raises(DataError, match="label 'tags' is 'a' in all 3 training tokens"):
        task.fit([{"text": "old path over", "tags": ["a", "a", "a"]}], texts(range(4)), **QUICK)
    with pytest.raises(DataError, match="which are no classes"):
        task.fit([{"text": "old path over", "tags": ["a", "b", "c"]}], texts(range(4)), **QUICK)
    with pytest.raises(ConfigError, match="'attentive_probe' brings a pool, and TokenTagger looks at no pool"):
        task.fit(texts(range(4)), texts(range(4, 8)), strategy="attentive_probe", **QUICK)
    tagger = TokenTagger(mmpt.load(tone_run), label="phones", stream="speech", rate=100.0)
    records = [{"speech": tone(n)["speech"], "phones": tone(n)["phones"]} for n in range(3)]
    records[2]["phones"] = records[2]["phones"][:30]
    with pytest.raises(DataError, match=r"sample 2: label 'phones': 30 classes are of 0\.30 s, and the recording has"):
        tagger.fit(records, records[:2], **QUICK)


def test_a_classifier_leaves_a_list_to_the_tagger(encoder):
    with pytest.raises(DataError, match="expected the name or number of one class, got \\["):
        Classifier(encoder, label="tags").fit(texts(range(4)), texts(range(4, 8)), **QUICK)
