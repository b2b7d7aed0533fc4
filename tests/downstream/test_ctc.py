"""Transcripts: what is learned, how they are decoded and scored, and what is refused."""

import sys

import numpy as np
import pytest
import torch
from tones import RATE, tone
from torch.nn.functional import ctc_loss
from torchaudio.models import decoder

import mmpt
from mmpt.errors import ConfigError, DataError
from mmpt.finetune import CTC, load
from mmpt.finetune.examples import examples_of
from mmpt.finetune.rows import Rows, known_labels
from mmpt.finetune.tasks.ctc import edits

QUICK = {"epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def encoder(tone_run):
    return mmpt.load(tone_run)


def records(numbers):
    return [{"speech": tone(n)["speech"], "text": tone(n)["labels"]["text"]} for n in numbers]


@pytest.fixture(scope="module")
def fitted(encoder, tone_shards):
    task = CTC(encoder, label="text", stream="speech")
    return task.fit(tone_shards, test=tone_shards, epochs=8, batch_size=8, learning_rate=1e-2)


def test_transcripts_are_learned_and_scored_in_letters_and_words(fitted, tone_shards):
    assert fitted.task.facts["letters"] == [" ", "a", "b", "c"]
    assert fitted.test["character_error_rate"].value < 0.2
    assert fitted.trivial_test["character_error_rate"] > 0.5
    best = min(fitted.history, key=lambda epoch: epoch["character_error_rate"])
    assert fitted.metrics["character_error_rate"].value == pytest.approx(best["character_error_rate"])
    said = fitted.task.predict(tone_shards)
    true = [tone(n)["labels"]["text"].lower().rstrip(".") for n in range(150) if n % 5 == 4]
    counts = edits(true, said).sum(0)
    assert fitted.test["character_error_rate"].value == pytest.approx(counts[0] / counts[1])
    assert fitted.test["word_error_rate"].value == pytest.approx(counts[2] / counts[3])


def test_a_saved_task_transcribes_the_same_alone_and_in_a_batch(fitted, tmp_path):
    rows = [{"speech": row["speech"]} for row in records(range(4))]
    again = load(fitted.save(tmp_path / "task"))
    together = fitted.task.predict(rows)
    assert [again.predict([row])[0] for row in rows] == together


def test_the_beam_finds_the_best_text_where_it_comes_about_in_many_ways(fitted, tmp_path):
    pytest.importorskip("flashlight.lib.text", reason="torchaudio's beam search needs flashlight-text")
    task = load(fitted.save(tmp_path / "task"))
    task.facts = {**task.facts, "letters": ["a", "b"]}
    scores = [np.log(np.array([[0.6, 0.4, 1e-9], [0.6, 0.4, 1e-9]], dtype=np.float32))]
    assert task.decode(scores) == [""]  # the blank, twice, is the best path; an 'a' comes about in three ways: 0.64
    task.decoding, task.beam_size = "beam", 10
    assert task.decode(scores) == ["a"]
    certain = np.full((6, 3), -20.0, dtype=np.float32)
    certain[np.arange(6), [1, 1, 0, 1, 2, 2]] = 0.0
    assert task.decode([certain, certain[:0]]) == ["aab", ""]


def test_a_beam_without_its_library_is_refused_before_anything_is_trained(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    monkeypatch.delitem(sys.modules, "torchaudio.models.decoder._ctc_decoder", raising=False)
    for name in ("ctc_decoder", "_ctc_decoder"):  # kept by a test before
        monkeypatch.delitem(vars(decoder), name, raising=False)
    with pytest.raises(ConfigError, match=r"needs flashlight-text; install it .* or use greedy"):
        CTC(encoder, label="text", stream="speech", decoding="beam")


def test_the_loss_is_torch_s_over_frames_that_are_heard(fitted):
    task = fitted.task
    examples = examples_of(records(range(3)), ["speech"], label="text", split="train")
    rows = Rows(task, examples, known_labels(task, examples)[0])
    together, alone = rows.batch([0, 1, 2], padding=1), rows.batch([1])
    assert not together.labels.known[3]
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, together.streams["speech"].valid.shape[1], 5, generator=generator)
    each = task.loss(outputs, together)
    frames = alone.streams["speech"].valid.shape[1]
    letters = alone.labels.values
    expected = ctc_loss(
        outputs[1:2, :frames].log_softmax(2).transpose(0, 1), letters, torch.tensor([frames]),
        torch.tensor([letters.shape[1]]), reduction="mean",
    )  # fmt: skip
    assert each[1] == pytest.approx(float(expected), rel=1e-5)
    assert each.isfinite().all()


def test_letters_are_plain_unless_they_are_to_stay_as_written(encoder):
    label = "It\u2019s  A-ok, \u00c9mile!"
    plain, written = (CTC(encoder, label="text", stream="speech", letters=own) for own in ("plain", "as_written"))
    assert "".join(plain.learn([label, "no"])["letters"]) == " 'aeiklmnost\u00e9"
    assert "!" in written.learn([label, "no"])["letters"]


def test_a_transcript_needs_a_frame_a_letter_and_one_between_two_that_are_alike(encoder):
    """0.115 s of 10 ms hops and 25 ms windows make 10 spectra, which are 5 frames."""
    task = CTC(encoder, label="text", stream="speech")
    wave = tone(0)["speech"][0][: round(0.115 * RATE)]
    sample = [{"speech": (wave, RATE), "text": text} for text in ("abcab", "abcca")]
    task.facts = task.learn(["abc", "ab"])
    examples = examples_of(sample, ["speech"], label="text", split="train")
    rows = Rows(task, examples, known_labels(task, examples)[0])
    assert rows.batch([0]).streams["speech"].valid.sum() == 5
    with pytest.raises(
        DataError, match="sample 1: label 'text': a transcript of 5 letters takes 6 frames, and the recording has 5"
    ):
        rows.batch([1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"text": "zoo"}, "sample 1: label 'text': letter 'o' is in no training transcript; those have ' abc'"),
        ({"text": 3.5}, "sample 1: label 'text': expected a text with a letter at least, got 3.5"),
        ({"text": "..."}, "sample 1: label 'text': expected a text with a letter at least, got '...'"),
        ({"text": "abc" * 40}, "sample 1: label 'text': a transcript of 120 letters takes 120 frames"),
        ({"speech": (np.zeros(2 * RATE), RATE)}, "sample 1: .*16000 samples, and the encoder takes 9600"),
    ],
)
def test_transcripts_that_can_not_be_learned_are_refused_and_the_sample_is_named(encoder, change, sentence):
    validation = records(range(10, 13))
    validation[1] |= change
    with pytest.raises(DataError, match=sentence):
        CTC(encoder, label="text", stream="speech").fit(records(range(10)), validation, **QUICK)


def test_what_does_not_fit_may_be_left_out_and_is_counted(encoder):
    train, validation = records(range(10)), records(range(10, 13))
    train[3]["text"], train[6]["text"], validation[2]["text"] = "...", "abc" * 40, "zoo"
    task = CTC(encoder, label="text", stream="speech", unfit="leave_out")
    result = task.fit(train, validation, **QUICK)
    assert result.samples == {"train": 8, "validation": 2}
    assert result.notes == (
        "2 train samples were left out, the first: sample 3: label 'text': expected a text with a letter at least, "
        "got '...'",
        "1 validation samples were left out, the first: sample 2: label 'text': letter 'o' is in no training "
        "transcript; those have ' abc'",
    )
    assert task.evaluate(validation)["character_error_rate"].value == result.metrics["character_error_rate"].value


def test_recordings_without_a_transcript_are_left_out_and_counted(encoder):
    train = records(range(10))
    train[3]["text"], train[4]["text"] = None, float("nan")
    result = CTC(encoder, label="text", stream="speech").fit(train, records(range(10, 13)), **QUICK)
    assert result.samples["train"] == 8
    assert "2 train samples have no label and were left out" in result.notes


def test_what_can_not_be_transcribed_is_refused(encoder, run):
    with pytest.raises(ConfigError, match="the encoder has no stream 'voice'; it has speech"):
        CTC(encoder, label="text", stream="voice")
    with pytest.raises(ConfigError, match="CTC transcribes sound, and 'text' is a stream of text"):
        CTC(mmpt.load(run), label="text", stream="text")
    task = CTC(encoder, label="txt", stream="speech")
    with pytest.raises(DataError, match="no sample has a label 'txt'; did you mean 'text'"):
        task.fit(records(range(4)), records(range(4, 6)), **QUICK)
    same = [row | {"text": "ab"} for row in records(range(4))]
    with pytest.raises(DataError, match="label 'text' is 'ab' in all 4 training samples"):
        CTC(encoder, label="text", stream="speech").fit(same, same, **QUICK)
