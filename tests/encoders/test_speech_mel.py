"""Patches of the spectrogram: their number and content, the channel taken away, padding, and the target."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchaudio.transforms import MelSpectrogram

from mmpt.encoders.speech_mel import SpeechMel
from mmpt.errors import ConfigError, DataError
from mmpt.objectives.targets.log_mel import LogMelTarget
from mmpt.tokens import StreamContext
from tests.encoders.speech_material import RATE, WHOLE, recording, speech_facts, speech_modalities

WIDTH = 16


@pytest.fixture
def mel(tmp_path):
    return speech_modalities(tmp_path)["speech_mel"]


def at_16_khz(folder, **settings):
    return SpeechMel(speech_facts(folder, 16000), **settings)


def read(mel, value, draw=None):
    return mel.read(value, 0, len(value[0]), draw)


def collated(mel, *lengths, size=None):
    return mel.collate([[read(mel, recording(n, length))] for n, length in enumerate(lengths)], size)


def context_of(content):
    return StreamContext(content, torch.arange(len(content.valid)), 0.0)


# ---- patches


@pytest.mark.parametrize(("samples", "patches"), [(879, 0), (880, 1), (1519, 1), (1520, 2), (16000, 24), (240000, 374)])
def test_a_patch_is_four_spectra_of_25_ms_every_10_ms(tmp_path, samples, patches):
    mel = at_16_khz(tmp_path)
    assert mel.num_tokens(0, samples) == patches
    if patches:
        assert read(mel, recording(0, samples, 16000)).shape == (patches, 160)


def test_patches_are_torchaudios_log_mel_spectrogram(tmp_path):
    mel = at_16_khz(tmp_path, normalize="none")
    samples, rate = recording(0, 5000, 16000)
    settings = {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 40, "center": False}
    # torchaudio puts the window into the middle of the padded one; the power is the same
    padded = np.r_[np.zeros(56, np.float32), samples, np.zeros(56, np.float32)]
    theirs = (MelSpectrogram(rate, **settings)(torch.from_numpy(padded)).t() + 1e-6).log()
    ours = torch.from_numpy(read(mel, (samples, rate))).view(-1, 40)
    assert_close(ours, theirs[: len(ours)], rtol=0, atol=1e-3)


def test_overlapping_patches_share_spectra(tmp_path):
    mel, wide = (at_16_khz(tmp_path, kernel=k, stride=2, normalize="none") for k in (2, 4))
    narrow = read(mel, recording(0, 4000, 16000))
    overlapping = read(wide, recording(0, 4000, 16000))
    assert len(overlapping) == len(narrow) - 1
    assert np.array_equal(overlapping, np.concatenate([narrow[:-1], narrow[1:]], axis=1))


def test_an_utterance_is_normalised_by_band_and_loudness_and_filters_leave_no_trace(mel):
    samples, rate = recording(0)
    patches = read(mel, (samples, rate))
    spectra = patches.reshape(-1, mel.mels)
    assert np.abs(spectra.mean(0)).max() < 1e-4
    assert abs(spectra.std() - 1) < 1e-3
    assert spectra.std(0).std() > 0.01  # a band that says more keeps its weight
    louder = read(mel, (samples * 3, rate))
    assert np.abs(louder - patches).max() < 0.05
    assert np.abs(read(mel, (np.zeros(WHOLE, np.float32), rate))).max() < 0.01


def test_what_fills_no_patch_is_left_out_and_stretches_are_cut(mel):
    samples, rate = recording(0, WHOLE + 100)
    other = samples.copy()
    other[280 + 160 * 13 :] = 0.9
    assert mel.num_tokens(0, WHOLE) == 14
    assert np.array_equal(read(mel, (samples[:WHOLE], rate)), read(mel, (other[:WHOLE], rate)))
    assert mel.pieces(2 * mel.limit + 279) == [(0, mel.limit), (mel.limit, 2 * mel.limit)]
    assert mel.pieces(0) == []
    stretch = mel.read((samples, rate), 500, 1500, None)
    assert np.array_equal(stretch, read(mel, (samples[500:1500], rate)))


def test_reading_depends_on_no_draw(mel):
    assert np.array_equal(read(mel, recording(0), 5), read(mel, recording(0), None))


def test_names_say_when_a_patch_begins_and_ends(mel):
    content = collated(mel, 600, 280)
    assert mel.token_names(content, 0) == ["0-0.035 s", "0.02-0.055 s", "0.04-0.075 s"]
    assert mel.token_names(content, 1) == ["0-0.035 s", "", ""]


# ---- tokens


@pytest.mark.parametrize("filler", [1e9, torch.nan])
def test_a_token_is_its_own_patch_and_padding_never_matters(mel, randomised, filler):
    encoder = randomised(mel.encoder(WIDTH)).eval()
    content = collated(mel, 700, WHOLE, 280, size=16)
    valid = content.valid.unsqueeze(2)
    dirty = content._replace(values=torch.where(valid, content.values, filler))
    choice = torch.full(content.valid.shape, 0.7, dtype=torch.float64)
    for mine, theirs in zip(encoder(content)[:6], encoder(dirty)[:6], strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(encoder.substitute(content, choice), encoder.substitute(dirty, choice))
    target = LogMelTarget(mel)
    assert torch.equal(target(context_of(content)), target(context_of(dirty)))
    alone = encoder(mel.collate([[read(mel, recording(0, 700))]], None))
    assert_close(alone.x[0], encoder(content).x[0, : alone.x.shape[1]], rtol=0, atol=1e-6)
    assert encoder.tokenwise


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_positions_tell_patches_apart(tmp_path, positions):
    mel = SpeechMel(speech_facts(tmp_path), positions=positions)
    content = collated(mel, WHOLE, 1000)
    tokens = mel.encoder(WIDTH)(content)
    if positions == "rotary":
        assert tokens.rotary
        assert torch.equal(tokens.place, content.place)
        assert not tokens.position.any()
    else:
        assert not tokens.place.any()
        assert len(tokens.position[0].unique(dim=0)) == tokens.position.shape[1]


# ---- the target


def test_the_target_is_the_patch_or_the_patch_standardised(mel):
    content = collated(mel, WHOLE, 700)
    context = context_of(content)
    assert torch.equal(LogMelTarget(mel)(context), content.values)
    own = LogMelTarget(mel, normalize=True)(context)[content.valid]
    assert_close(own.mean(1), torch.zeros(len(own)), rtol=0, atol=1e-5)
    assert_close(own.var(1), torch.ones(len(own)), rtol=0, atol=1e-3)
    assert LogMelTarget(mel).size == mel.kernel * mel.mels


def test_the_loss_is_the_mean_squared_error_of_a_patch(mel):
    target = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert_close(LogMelTarget(mel).loss(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), target), torch.tensor([2.5, 4.5]))


def test_a_modality_without_sound_is_refused(text):
    with pytest.raises(ConfigError, match="target 'log_mel' has a meaning for speech only"):
        LogMelTarget(text)


# ---- wrong recordings and settings


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ((np.zeros((900, 2), np.float32), RATE), "2 channels, expected mono"),
        ((np.zeros(0, np.float32), RATE), "zero length"),
        ((np.zeros(279, np.float32), RATE), "279 samples at 8000 Hz, expected at least 280"),
        ((np.full(900, np.nan, np.float32), RATE), "900 of 900 samples are not finite"),
        ((np.zeros(900, np.float32), 44100), "sampled at 44100 Hz, expected 8000 Hz"),
    ],
)
def test_what_is_no_speech_is_refused_with_a_sentence(mel, value, sentence):
    with pytest.raises(DataError, match=sentence):
        mel.read(value, 0, 10_000, None)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mels": 0}, "mels: expected at least 1, got 0"),
        ({"mels": 100}, "mels: 100 bands are too narrow for the 129 frequencies of a window at 8000 Hz; use fewer"),
        ({"stride": 5}, "stride: expected 1 <= stride <= kernel, got stride 5, kernel 4"),
        ({"hop_seconds": 0.02}, "hop_seconds: expected 0.001 to half of window_seconds, got 0.02 and 0.025"),
        ({"max_seconds": 0.05}, "max_seconds: 0.05 s at 8000 Hz are less than a token of 440 samples"),
        ({"sample_rate": 500}, "sample_rate: expected 1000 to 768000 Hz, got 500"),
        ({"sample_rate": 16000}, "the data have 8000 Hz, and 16000 Hz were asked for"),
    ],
)
def test_settings_that_can_not_be_are_refused_with_a_sentence(tmp_path, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        SpeechMel(speech_facts(tmp_path), **settings)


def test_resampled_speech_sounds_the_same(tmp_path):
    plain = SpeechMel(speech_facts(tmp_path), mels=20)
    finer = SpeechMel(speech_facts(tmp_path), mels=20, sample_rate=16000, resample=True)
    own, other = read(plain, recording(0)), read(finer, recording(0))
    assert own.shape == other.shape
    assert len(other) == finer.num_tokens(0, WHOLE)
