"""Labels of units: which one a token gets, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from mmpt.config import Component, component
from mmpt.data.codebook import Codebook, load_codebook, save_codebook
from mmpt.data.manifest import load_manifest
from mmpt.data.mfcc import mfcc_features, mfcc_rate, mfcc_settings
from mmpt.data.schema import declare
from mmpt.data.source import Source, SourceSettings
from mmpt.data.unit_labels import open_labels, token_labels, with_units
from mmpt.data.writer import ShardWriter
from mmpt.encoders import Facts
from mmpt.encoders.image import Image
from mmpt.encoders.speech import Speech
from mmpt.errors import ConfigError, DataError
from mmpt.objectives.targets import Target
from tests.encoders.speech_material import RATE, recording, small_speech, speech_facts

LENGTHS = (2500, 1700, 2000, 300)  # samples


def hubert_speech(folder, **settings):
    """Frames of 25 ms every 20 ms, as at 16 kHz."""
    return Speech(speech_facts(folder, 16000), channels=8, kernel=8, groups=4, **settings)


def mfcc_codebook(clusters=5, stream="speech", rate=RATE):
    frames = mfcc_features(*recording(0, 4000))
    centroids = frames[:: len(frames) // clusters][:clusters]
    return Codebook(centroids, mfcc_rate(rate), stream, {**mfcc_settings(), "sample_rate": rate})


@pytest.fixture
def data(tmp_path):
    fields = {"speech": declare("speech", "flac", sample_rate=RATE)}
    with ShardWriter(tmp_path / "speech", fields, split=(1.0, 0.0, 0.0)) as writer:
        for number, length in enumerate(LENGTHS):
            samples, rate = recording(number, length)
            writer.write({"speech": ((samples * 20000).astype(np.int16), rate), "__key__": f"clip{number}"})
    return load_manifest(tmp_path / "speech")


def write_labels(folder, labels, facts):
    with ShardWriter(folder, {"units": declare("units", "npy", **facts)}) as writer:
        for key, own in labels.items():
            writer.write({"units": np.asarray(own, dtype=np.uint16), "__key__": key})
    return folder


def source_of(data, folder, units, **settings):
    speech = small_speech(folder, **settings)
    given = SourceSettings(shards=data.folder, streams=("speech",), units={"speech": units})
    return Source("clips", 0, given, {"speech": speech}, 0)


def test_half_as_many_tokens_take_every_other_label(tmp_path):
    speech = hubert_speech(tmp_path)
    assert token_labels(0, Fraction(100), speech, 5).tolist() == [0, 2, 4, 6, 8]
    assert token_labels(0, Fraction(50), speech, 4).tolist() == [0, 1, 2, 3]
    assert token_labels(7, Fraction(100), speech, 3).tolist() == [7, 9, 11]


def test_label_numbers_are_exact_where_floats_are_not(tmp_path):
    speech = hubert_speech(tmp_path)
    numbers = token_labels(0, Fraction(350, 3), speech, 30_001)  # 7 labels for 3 tokens
    assert numbers[::3].tolist() == list(range(0, 70_001, 7))
    assert (np.diff(numbers) >= 2).all()
    assert (np.diff(numbers) <= 3).all()


@pytest.mark.parametrize("length", [400, 559, 560, 719, 720, 721, 1039, 1040, 16000, 15999, 32123])
def test_mfcc_frames_at_16_khz_are_twice_the_stem_s(tmp_path, length):
    frames = len(mfcc_features(np.random.default_rng(0).standard_normal(length).astype(np.float32) * 0.1, 16000))
    assert frames == (length - 400) // 160 + 1
    assert -(-frames // 2) == hubert_speech(tmp_path).tokens(length)


def test_mfccs_are_kaldi_s_without_energy_and_their_slopes_are_fitted_lines():
    samples, rate = recording(3, 4000)
    frames = mfcc_features(samples, rate)
    expected = kaldi.mfcc(torch.from_numpy(samples)[None], sample_frequency=8000.0, use_energy=False, dither=0.0)
    np.testing.assert_allclose(frames[:, :13], expected.numpy(), rtol=1e-5, atol=1e-4)
    for first, second in ((0, 13), (13, 26)):
        around = np.stack([frames[10 + n, first : first + 13] * n for n in range(-2, 3)]).sum(0) / 10
        np.testing.assert_allclose(frames[10, second : second + 13], around, rtol=1e-4, atol=1e-4)


def test_a_codebook_comes_back_as_it_was_and_a_changed_one_is_refused(tmp_path):
    codebook, file = mfcc_codebook(), tmp_path / "a" / "book.safetensors"
    save_codebook(codebook, file)
    again = load_codebook(file)
    assert again.hash == codebook.hash
    assert (again.rate, again.stream, dict(again.features)) == (Fraction(100), "speech", dict(codebook.features))
    np.testing.assert_array_equal(again.centroids, codebook.centroids)
    other = Codebook(codebook.centroids + 1, codebook.rate, codebook.stream, codebook.features)
    assert other.hash != codebook.hash
    bytes_ = bytearray(file.read_bytes())
    bytes_[-1] ^= 1
    file.write_bytes(bytes(bytes_))
    with pytest.raises(DataError, match="differ from what was saved"):
        load_codebook(file)
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(DataError, match="no codebook"):
        load_codebook(tmp_path / "text.safetensors")


def test_assignment_is_the_nearest_centroid():
    random = np.random.default_rng(1)
    centroids, frames = random.normal(size=(7, 4)).astype(np.float32), random.normal(size=(90, 4)).astype(np.float32)
    expected = np.linalg.norm(frames[:, None] - centroids[None], axis=2).argmin(1)
    np.testing.assert_array_equal(Codebook(centroids, None, "speech", {}).assign(frames), expected)


def test_labels_made_while_reading_are_the_stored_ones(data, tmp_path):
    codebook, file = mfcc_codebook(), tmp_path / "book.safetensors"
    save_codebook(codebook, file)
    reading = source_of(data, tmp_path, file)
    labels = {
        str(key): codebook.assign(mfcc_features(*reading.reader.read(row)["speech"]))
        for row, key in enumerate(data.column("key"))
    }
    stored = source_of(data, tmp_path, write_labels(tmp_path / "units", labels, codebook.facts))
    bins = list(range(reading.plan.num_bins))
    one, other = reading.rows(bins).streams["speech"], stored.rows(bins).streams["speech"]
    assert one.units is not None
    assert len(one.units[one.valid].unique()) > 1
    torch.testing.assert_close(one.units, other.units)


def test_every_piece_of_a_long_recording_gets_the_labels_of_its_own_time(data, tmp_path):
    labels = {f"clip{n}": np.arange(max(length // 80, 1)) for n, length in enumerate(LENGTHS)}  # hundredths of a second
    facts = {**mfcc_codebook().facts, "clusters": 1000}
    source = source_of(data, tmp_path, write_labels(tmp_path / "units", labels, facts), max_seconds=0.1)
    rows = source.rows(list(range(source.plan.num_bins)))
    content = rows.streams["speech"]
    assert not rows.skips
    assert len({int(start) for start in source.pieces.start}) > 2
    for row, uid in enumerate(rows.uid.tolist()):
        piece = int(source.plan.pieces(uid & ((1 << 40) - 1))[0])
        first = round(int(source.pieces.start[piece]) / 80)
        count = int(content.valid[row].sum())
        last = len(labels[f"clip{int(source.pieces.sample[piece])}"]) - 1
        expected = [min(first + token * 128 // 80, last) for token in range(count)]
        assert content.units[row, :count, 0].tolist() == expected


def test_labels_that_do_not_fit_are_refused_with_the_sample_named(data, tmp_path):
    facts = mfcc_codebook().facts
    labels = {f"clip{n}": np.zeros(length // 80) for n, length in enumerate(LENGTHS)}
    labels["clip1"] = np.zeros(LENGTHS[1] // 80 + 11)
    del labels["clip2"]
    labels["clip3"] = np.full(LENGTHS[3] // 80, 5)
    source = source_of(data, tmp_path, write_labels(tmp_path / "units", labels, facts))
    skips = {skip.key: skip.reason for skip in source.rows(list(range(source.plan.num_bins))).skips}
    assert set(skips) == {"clip1", "clip2", "clip3"}
    assert "sample clip1: member 'speech': 0.21 s with labels for 0.32 s" in skips["clip1"]
    assert "no labels of this sample" in skips["clip2"]
    assert "whole numbers below 5" in skips["clip3"]


def test_units_of_something_else_are_refused(data, tmp_path):
    speech, file = small_speech(tmp_path), tmp_path / "book.safetensors"
    save_codebook(mfcc_codebook(stream="voice"), file)
    with pytest.raises(ConfigError, match=r"here: .* has units of stream 'voice', not of 'speech'"):
        open_labels(file, "speech", data, speech, "here")
    layer = Codebook(np.zeros((2, 3), np.float32), Fraction(50), "speech", {"type": "layer", "layer": 1})
    save_codebook(layer, file)
    with pytest.raises(ConfigError, match="of a trained layer, which reading can't compute"):
        open_labels(file, "speech", data, speech, "here")
    with pytest.raises(ConfigError, match="has no field 'units'"):
        open_labels(data.folder, "speech", data, speech, "here")
    with pytest.raises(ValueError, match="units: expected one of the streams speech, got image"):
        SourceSettings(shards=data.folder, streams=("speech",), units={"image": file})


def test_fewer_labels_than_tokens_are_refused(data, tmp_path):
    speech = small_speech(tmp_path)  # 62.5 tokens a second
    enough = write_labels(tmp_path / "enough", {"clip0": [0]}, {**mfcc_codebook().facts, "rate": "125/2"})
    assert open_labels(enough, "speech", data, speech, "here").rate == Fraction(125, 2)
    slow = write_labels(tmp_path / "slow", {"clip0": [0]}, {**mfcc_codebook().facts, "rate": "25"})
    with pytest.raises(
        ConfigError,
        match=r"here: .*slow has 25 labels a second for 62\.5 tokens a second, expected a label for each token; "
        r"take labels at 62\.5 a second or more, or an encoder with 25 tokens or fewer",
    ):
        open_labels(slow, "speech", data, speech, "here")


def test_token_labels_of_a_cropped_picture_are_refused(tmp_path, data):
    facts = Codebook(np.zeros((2, 3), np.float32), None, "image", {"type": "layer"}).facts
    folder = write_labels(tmp_path / "units", {"a": [0]}, facts)
    image = Image(Facts(tmp_path), size=16, patch=8, flip=True)
    with pytest.raises(ConfigError, match="the recipe crops or flips it"):
        open_labels(folder, "image", data, image, "here")
    timed = write_labels(tmp_path / "timed", {"a": [0]}, {**facts, "rate": "50"})
    with pytest.raises(ConfigError, match="50 labels a second, and this stream's tokens are not of sound"):
        open_labels(timed, "image", data, Image(Facts(tmp_path), size=16, patch=8), "here")


def test_padding_and_class_tokens_have_no_label(tmp_path):
    image = Image(Facts(tmp_path), size=16, patch=8)
    content = image.collate([[np.zeros((5, 192), np.uint8)], []], None)
    units = with_units(content, [np.array([[3, 7], [1, 7], [2, 7], [9, 7]]), None], 2).units
    assert units[:, :, 0].tolist() == [[0, 3, 1, 2, 9], [0, 0, 0, 0, 0]]
    assert units[:, :, 1].tolist() == [[0, 7, 7, 7, 7], [0, 0, 0, 0, 0]]


def test_the_target_needs_labels(tmp_path):
    with pytest.raises(ConfigError, match="no source of this stream has any"):
        component(Target, "units").build(small_speech(tmp_path))
    assert isinstance(component(Target, "units"), Component)


def test_several_label_sets_stand_side_by_side_each_at_its_own_rate(data, tmp_path):
    codebook, file = mfcc_codebook(), tmp_path / "book.safetensors"
    save_codebook(codebook, file)
    slow = {f"clip{n}": np.arange(max(length // 128, 1)) for n, length in enumerate(LENGTHS)}
    folder = write_labels(tmp_path / "slow", slow, {**codebook.facts, "clusters": 1000, "rate": "125/2"})
    both, *alone = (source_of(data, tmp_path, places) for places in ((file, folder), file, (folder,)))
    bins = list(range(both.plan.num_bins))
    units = both.rows(bins).streams["speech"].units
    assert units.shape[2] == 2
    for number, source in enumerate(alone):
        torch.testing.assert_close(units[:, :, number : number + 1], source.rows(bins).streams["speech"].units)
    assert both.fingerprint != alone[0].fingerprint
    with pytest.raises(ValueError, match=r"units\.speech: expected at least one folder or codebook"):
        SourceSettings(shards=data.folder, streams=("speech",), units={"speech": ()})
