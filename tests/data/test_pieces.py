"""Labels of recordings that are longer than a model reads at once: which of them each piece gets."""

from fractions import Fraction

import numpy as np
import pytest

from mmpt.data.manifest import load_manifest
from mmpt.data.pieces import pieces_of, side_by_side
from mmpt.data.schema import declare
from mmpt.data.unit_labels import StoredLabels
from mmpt.data.writer import ShardWriter
from mmpt.encoders.speech import Speech
from mmpt.errors import DataError
from tests.encoders.ecg_material import ecg_modalities, recording
from tests.encoders.speech_material import speech_facts


def labels_of(folder, modality, labels, **facts):
    """Stored labels of one sample."""
    told = {"clusters": 10_000, "rate": None, "stream": "any", "features": facts}
    for name, field in (("data", "any"), ("units", "units")):
        with ShardWriter(folder / name, {field: declare(field, "npy", **told)}) as writer:
            writer.write({field: np.asarray(labels, dtype=np.uint16), "__key__": "one"})
    return StoredLabels(folder / "units", load_manifest(folder / "data"), modality, "here")


def speech_of(folder, seconds):
    """50 frames a second, of which a piece lacks the last one."""
    return Speech(speech_facts(folder, 16000), channels=8, kernel=8, groups=4, max_seconds=seconds)


def frames_alone(speech, pieces):
    """Frames of each piece that say which they are."""
    counts = [speech.num_tokens(start, stop) for start, stop in pieces]
    return [1000 * number + np.arange(count) for number, count in enumerate(counts)]


def test_frames_of_pieces_cover_the_recording_and_training_finds_each_piece_s_own(tmp_path):
    speech, sound = speech_of(tmp_path, 1.0), (np.ones(40_700, np.float32), 16000)
    pieces = pieces_of(speech, sound)
    frames = frames_alone(speech, pieces)
    assert [len(own) for own in frames] == [49, 49, 26]
    whole = side_by_side(frames, pieces, 40_700, speech)
    assert len(whole) == 40_700 * 50 // 16000
    assert whole[48:51].tolist() == [48, 48, 1000]
    assert whole[-2:].tolist() == [2025, 2025]
    labels = labels_of(tmp_path, speech, whole)
    labels.rate = Fraction(50)
    for piece, own in zip(pieces, frames, strict=True):
        np.testing.assert_array_equal(labels.tokens(0, sound, piece, own), own)


def test_an_end_that_is_too_short_to_read_is_covered_too(tmp_path):
    speech, length = speech_of(tmp_path, 1.0), 32_390
    pieces = pieces_of(speech, (np.ones(length, np.float32), 16000))
    assert pieces == [(0, 16000), (16000, 32000)]
    whole = side_by_side(frames_alone(speech, pieces), pieces, length, speech)
    assert whole[-3:].tolist() == [1048] * 3
    assert len(whole) == length * 50 // 16000


def test_a_recording_that_is_read_at_once_has_its_own_frames_alone(tmp_path):
    speech = speech_of(tmp_path, 1.0)
    (own,) = frames_alone(speech, [(0, 15_999)])
    np.testing.assert_array_equal(side_by_side([own], [(0, 15_999)], 15_999, speech), own)


@pytest.mark.parametrize("missing", [(), ("II", "V3")])
def test_strips_of_a_long_ecg_are_labelled_piece_by_piece(tmp_path, missing):
    ecg = ecg_modalities(tmp_path)["ecg"]  # pieces of 1100 samples
    signal = recording(0, 2500, missing)
    pieces = pieces_of(ecg, signal)
    counts = [(12 - len(missing)) * strips for strips in (17, 17, 4)]
    assert len(pieces) == 3
    labels = labels_of(tmp_path, ecg, np.arange(sum(counts)), limit=ecg.limit)
    found = [labels.tokens(0, signal, piece, ecg.read(signal, *piece, None)) for piece in pieces]
    assert [len(own) for own in found] == counts
    np.testing.assert_array_equal(np.concatenate(found), np.arange(sum(counts)))
    joint = labels.tokens(0, signal, (0, ecg.limit), ecg.read(signal, 0, ecg.limit, None))
    np.testing.assert_array_equal(joint, found[0])


def test_labels_of_other_pieces_are_refused(tmp_path):
    ecg, signal = ecg_modalities(tmp_path)["ecg"], recording(0, 2500)
    count = 12 * 38
    first = (0, 1100), ecg.read(signal, 0, 1100, None)
    with pytest.raises(DataError, match=rf"{count - 1} labels for {count} tokens; label the samples again"):
        labels_of(tmp_path / "short", ecg, np.arange(count - 1)).tokens(0, signal, *first)
    with pytest.raises(DataError, match="of pieces of up to 550, and this recipe reads pieces of up to 1100"):
        labels_of(tmp_path / "cut", ecg, np.arange(count), limit=550).tokens(0, signal, *first)
    whole = labels_of(tmp_path / "whole", ecg, np.arange(count))
    with pytest.raises(DataError, match="labels are of pieces, and 64 to 1100 is none of them"):
        whole.tokens(0, signal, (64, 1100), ecg.read(signal, 64, 1100, None))
