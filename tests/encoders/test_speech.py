"""The waveform's frames: how many there are, what each hears, padding, both norms, positions, and wrong recordings."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv1d
from torch.testing import assert_close

from mmpt.encoders.speech import STEM, Speech
from mmpt.encoders.wave_stem import ConvLayer
from mmpt.errors import ConfigError, DataError
from mmpt.objectives.targets.log_mel import LogMelTarget
from mmpt.tokens import StreamContext, drop, replace
from mmpt.trunk.conv_positions import ConvolutionalPositions, grouped_conv
from tests.encoders.speech_material import RATE, WHOLE, recording, small_speech, speech_facts

WIDTH = 16
LENGTHS = (WHOLE, 200, 1111, 2001)


def original(folder, **settings):
    return Speech(speech_facts(folder, 16000), **settings)


def read(speech, value, draw=None):
    return speech.read(value, 0, len(value[0]), draw)


def collated(speech, lengths, size=None):
    """A row for each length; 0 is a row without sound."""
    rows = [[read(speech, recording(n, length))] if length else [] for n, length in enumerate(lengths)]
    return speech.collate(rows, size)


def context_of(content):
    return StreamContext(content, torch.arange(len(content.valid)), 0.0)


def with_padding(content, filler):
    return content._replace(values=torch.where(content.valid.unsqueeze(2), content.values, filler))


# ---- frames


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(0, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16000, 49), (32000, 99), (240000, 749)],
)
def test_a_frame_is_25_ms_every_20_ms(tmp_path, samples, frames):
    speech = original(tmp_path)
    assert (speech.window, speech.hop) == (400, 320)
    assert speech.num_tokens(0, samples) == frames
    if frames:
        assert read(speech, recording(0, samples, 16000)).shape == (frames, 400)


def test_the_closed_form_is_what_the_convolutions_give(tmp_path):
    speech = original(tmp_path)
    for samples in range(400, 60_000, 7):
        left = samples
        for kernel, stride in STEM:
            left = (left - kernel) // stride + 1
        assert speech.num_tokens(0, samples) == left


def test_windows_overlap_and_leave_out_what_fills_no_frame(tmp_path):
    speech = small_speech(tmp_path, normalize_wave=False)
    samples = np.arange(speech.window + 2 * speech.hop + 100, dtype=np.float32)
    windows = read(speech, (samples, RATE))
    assert len(windows) == 3
    for number, window in enumerate(windows):
        assert np.array_equal(window, samples[number * speech.hop :][: speech.window])


@pytest.mark.parametrize("normalize", [True, False])
def test_the_last_samples_never_matter(tmp_path, normalize):
    speech = small_speech(tmp_path, normalize_wave=normalize)
    samples, rate = recording(0, WHOLE + 50)
    other = samples.copy()
    other[WHOLE:] = 9.0
    assert np.array_equal(read(speech, (samples, rate)), read(speech, (other, rate)))


def test_a_normalised_wave_has_mean_0_and_variance_1_however_loud(tmp_path):
    speech = small_speech(tmp_path)
    samples, rate = recording(0, speech.window + speech.hop)
    windows = read(speech, (samples, rate))
    wave = np.r_[windows[0], windows[1, speech.window - speech.hop :]]
    assert abs(wave.mean()) < 1e-5
    assert abs(wave.std() - 1) < 1e-4
    assert_close(windows, read(speech, (samples * 0.01 + 0.3, rate)), rtol=0, atol=1e-3)
    assert np.array_equal(read(speech, (np.zeros(WHOLE, np.float32), rate)), np.zeros((18, speech.window), np.float32))


def test_long_recordings_are_cut_and_a_rest_shorter_than_a_frame_is_left_out(tmp_path):
    speech = small_speech(tmp_path, max_seconds=0.1)
    assert speech.limit == 800
    assert speech.pieces(2000) == [(0, 800), (800, 1600), (1600, 2000)]
    assert speech.pieces(1799) == [(0, 800), (800, 1600)]
    assert speech.pieces(199) == []
    samples, rate = recording(0, 2000)
    assert np.array_equal(speech.read((samples, rate), 800, 1600, None), read(speech, (samples[800:1600], rate)))


def test_names_say_when_a_frame_begins_and_ends(tmp_path):
    speech = original(tmp_path, channels=2)
    content = speech.collate(
        [[read(speech, recording(0, 1100, 16000))], [read(speech, recording(1, 400, 16000))]], None
    )
    assert speech.token_names(content, 0) == ["0-0.025 s", "0.02-0.045 s", "0.04-0.065 s"]
    assert speech.token_names(content, 1) == ["0-0.025 s", "", ""]


# ---- the stem


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (7, 3), (3, 1), (4, 2)])
@pytest.mark.parametrize("size", [9, 24])
def test_a_layer_is_a_convolution_forward_and_backward(kernel, stride, size):
    torch.manual_seed(0)
    layer = ConvLayer(5, 6, kernel, stride, bias=True, norm=None)
    x = torch.randn(size, 5, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    weight = layer.weight.detach().unflatten(0, (kernel, 5)).permute(2, 1, 0).clone().requires_grad_()
    ours = layer(x, 1, size)
    theirs = torch.nn.functional.gelu(conv1d(other.t().unsqueeze(0), weight, stride=stride)[0].t())
    assert_close(ours, theirs, rtol=0, atol=1e-5)
    pull = torch.randn(ours.shape)
    dx, dweight = torch.autograd.grad((ours * pull).sum(), (x, layer.weight))
    dother, dtheirs = torch.autograd.grad((theirs * pull).sum(), (other, weight))
    assert_close(dx, dother, rtol=0, atol=1e-5)
    assert_close(dweight, dtheirs.permute(2, 1, 0).flatten(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("true", [True, False])
def test_a_padded_row_is_the_row_alone(tmp_path, randomised, norm, true):
    settings = {"stem": STEM, "max_seconds": 1.0} if true else {}
    speech = small_speech(tmp_path, norm=norm, **settings)
    encoder = randomised(speech.encoder(WIDTH)).eval()
    lengths = [speech.window + speech.hop * n for n in (6, 0, 2, 5)]
    content = collated(speech, lengths, size=11)
    tokens = encoder.settle(replace(encoder(content), encoder(content).x), 11).tokens
    assert not tokens.x[~content.valid].any()
    for row, length in enumerate(lengths):
        alone = speech.collate([[read(speech, recording(row, length))]], None)
        assert alone.full
        own = encoder.settle(replace(encoder(alone), encoder(alone).x), alone.valid.shape[1]).tokens
        assert_close(tokens.x[row][content.valid[row]], own.x[0], rtol=0, atol=1e-5)
        assert_close(tokens.position[row][content.valid[row]], own.position[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("filler", [1e9, torch.nan])
def test_what_stands_in_padding_never_matters(tmp_path, randomised, norm, filler):
    speech = small_speech(tmp_path, norm=norm)
    encoder = randomised(speech.encoder(WIDTH))
    content = collated(speech, (*LENGTHS[1:], 0, WHOLE), size=20)
    choice = torch.full(content.valid.shape, 0.7, dtype=torch.float64)
    results, gradients = [], []
    for each in (content, with_padding(content, filler)):
        tokens = encoder(each)
        assert not tokens.x[~content.valid].any()
        results.append((tokens.x, encoder.substitute(each, choice), LogMelTarget(speech)(context_of(each))))
        encoder.zero_grad()
        tokens.x.square().sum().backward()
        gradients.append([p.grad for name, p in encoder.named_parameters() if not name.startswith("convolution")])
    for clean, dirty in zip(results[0] + tuple(gradients[0]), results[1] + tuple(gradients[1]), strict=True):
        assert torch.equal(clean, dirty)


def test_a_frame_hears_its_own_window_alone_where_norms_do_not_cross_time(tmp_path, randomised):
    speech = small_speech(tmp_path, normalize_wave=False)
    encoder = randomised(speech.encoder(WIDTH)).eval()
    samples, rate = recording(0)
    other = samples.copy()
    other[6 * speech.hop + speech.window :] += 0.3  # behind the seventh frame's window
    ours, theirs = (encoder(speech.collate([[read(speech, (s, rate))]], None)).x[0] for s in (samples, other))
    assert torch.equal(ours[:7], theirs[:7])
    assert (ours[7:] != theirs[7:]).any(1).all()


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_rows_without_sound_give_every_weight_a_gradient(tmp_path, norm):
    speech = small_speech(tmp_path, norm=norm, conv_bias=True)
    encoder = speech.encoder(WIDTH)
    content = speech.collate([[]], None)
    shown = encoder.settle(replace(encoder(content), encoder(content).x), 1)
    (shown.tokens.x.sum() + shown.tokens.position.sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_gradient_that_enters_the_stem_is_scaled_and_nothing_else(tmp_path, randomised):
    content = collated(small_speech(tmp_path), LENGTHS)
    whole, tenth = (randomised(small_speech(tmp_path, gradient_scale=s).encoder(WIDTH)) for s in (1.0, 0.1))
    assert torch.equal(whole(content).x, tenth(content).x)
    for encoder in (whole, tenth):
        encoder(content).x.square().sum().backward()
    for (name, first), second in zip(whole.named_parameters(), tenth.parameters(), strict=True):
        if not name.startswith("convolution"):
            assert_close(second.grad, first.grad * (0.1 if name.startswith("stem") else 1.0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_half_precision_is_near_single_and_reaches_every_weight(tmp_path, randomised, norm):
    speech = small_speech(tmp_path, norm=norm, conv_bias=True, gradient_scale=0.1)
    encoder, content = randomised(speech.encoder(WIDTH)), collated(speech, LENGTHS)

    def tokens():
        embedded = encoder(content)
        return encoder.settle(replace(embedded, embedded.x), content.valid.shape[1]).tokens

    single, target = tokens(), LogMelTarget(speech)(context_of(content))
    with torch.autocast("cpu", torch.bfloat16):
        half = tokens()
        assert torch.equal(LogMelTarget(speech)(context_of(content)), target)
    assert half.x.dtype == torch.bfloat16
    assert_close(half.x.float(), single.x, rtol=0, atol=0.1)
    assert_close(half.position.float(), single.position, rtol=0, atol=0.1)
    (half.x.float().square().sum() + half.position.float().sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        if (norm, name) != ("group", "stem.layers.0.bias"):  # a norm over time takes a constant out again
            assert parameter.grad.any(), name


# ---- positions


@pytest.mark.parametrize(
    ("width", "kernel", "groups", "size"), [(16, 8, 4, 30), (16, 5, 1, 17), (12, 1, 3, 4), (16, 128, 16, 3)]
)
def test_positions_are_a_grouped_convolution(width, kernel, groups, size):
    torch.manual_seed(0)
    positions = ConvolutionalPositions(width, kernel=kernel, groups=groups)
    x = torch.randn(2, size, width)
    weight = positions.weight()
    theirs = conv1d(x.transpose(1, 2), weight, padding=kernel // 2, groups=groups)[:, :, :size]
    assert_close(grouped_conv(x, weight, groups), theirs.transpose(1, 2), rtol=0, atol=1e-5)
    assert_close(weight.norm(dim=(0, 1)), positions.length.flatten(), rtol=1e-4, atol=0)


def test_places_that_are_not_valid_count_as_zeros_for_positions():
    positions = ConvolutionalPositions(WIDTH, kernel=8, groups=4)
    x, valid = torch.randn(2, 12, WIDTH), torch.arange(12) < torch.tensor([[12], [7]])
    dirty = torch.where(valid.unsqueeze(2), x, torch.nan)
    assert_close(positions(dirty, valid), positions(torch.where(valid.unsqueeze(2), x, 0.0), None), rtol=0, atol=0)


def test_positions_of_shown_tokens_know_nothing_of_dropped_ones(tmp_path, randomised):
    speech = small_speech(tmp_path)
    encoder = randomised(speech.encoder(WIDTH)).eval()
    content = collated(speech, LENGTHS)
    hidden = content.valid & (content.place % 3 == 1)
    tokens = encoder(content)
    noise = torch.where(hidden.unsqueeze(2), torch.randn(tokens.x.shape), tokens.x)
    size = hidden.shape[1]
    first, second = (encoder.settle(drop(t, hidden, None), size).tokens for t in (tokens, tokens._replace(x=noise)))
    assert torch.equal(first.position, second.position)
    assert first.position[first.valid].abs().max() > 0


@pytest.mark.parametrize("positions", ["convolutional", "sincos", "rotary"])
def test_positions_tell_frames_apart(tmp_path, positions):
    speech = small_speech(tmp_path, positions=positions)
    encoder, content = speech.encoder(WIDTH), collated(speech, LENGTHS)
    tokens = encoder.settle(replace(encoder(content), encoder(content).x), content.valid.shape[1]).tokens
    if positions == "rotary":
        assert tokens.rotary
        assert torch.equal(tokens.place, content.place)
        assert not tokens.position.any()
    else:
        assert not tokens.rotary
        assert not tokens.place.any()
        assert len(tokens.position[0].unique(dim=0)) == tokens.position.shape[1]
    assert encoder.place_table(12).shape == (speech.max_places, 12)


# ---- wrong recordings and settings


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ((np.zeros((900, 2), np.float32), RATE), "2 channels, expected mono; build with 'mmpt build speech'"),
        ((np.zeros(0, np.float32), RATE), "zero length"),
        ((np.zeros(199, np.float32), RATE), "199 samples at 8000 Hz, expected at least 200"),
        ((np.r_[np.zeros(500), np.nan].astype(np.float32), RATE), "1 of 501 samples are not finite"),
        ((np.r_[np.zeros(500), np.inf, -np.inf].astype(np.float32), RATE), "2 of 502 samples are not finite"),
        ((np.zeros(900, np.float32), 16000), "sampled at 16000 Hz, expected 8000 Hz"),
    ],
)
def test_what_is_no_speech_is_refused_with_a_sentence(tmp_path, value, sentence):
    with pytest.raises(DataError, match=sentence):
        small_speech(tmp_path).read(value, 0, 10_000, None)


def test_one_channel_on_an_axis_of_its_own_is_mono(tmp_path):
    speech, (samples, rate) = small_speech(tmp_path), recording(0)
    assert np.array_equal(read(speech, (samples[:, None], rate)), read(speech, (samples, rate)))


def test_a_user_may_hand_over_floats_or_16_bits_with_their_rate(tmp_path):
    speech, (samples, rate) = small_speech(tmp_path), recording(0)
    samples = np.rint(samples * 32768).astype(np.int16)
    wanted, _ = speech.convert((samples.astype(np.float64) / 32768, rate))
    for value in ((samples, rate), [samples, float(rate)], (samples[:, None], np.int64(rate))):
        wave, own = speech.convert(value)
        assert wave.dtype == np.float32
        assert np.array_equal(wave, wanted)
        assert own == rate


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            np.zeros(900, np.float32),
            r"expected \(array of T samples, rate in Hz\), bytes or a path, got float32 of 900",
        ),
        (("hello", RATE), r"got \(str, 8000\)"),
        ((np.zeros(900, np.int32), RATE), r"got \(int32 of 900, 8000\); samples are float or int16"),
        ((np.zeros(900), "8000"), "got .*'8000'"),
        ((np.zeros(900), True), "got .*True"),
        ((np.zeros((900, 2)), RATE), "2 channels, expected mono"),
        ((np.zeros(900), 44100), "sampled at 44100 Hz, expected 8000 Hz"),
        (None, "got NoneType"),
    ],
)
def test_what_can_not_be_converted_is_refused_with_a_sentence(tmp_path, value, sentence):
    with pytest.raises(DataError, match=sentence):
        small_speech(tmp_path).convert(value)


def test_another_rate_is_refused_unless_resampling_was_asked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"sample_rate: the data have 8000 Hz, and 16000 Hz .* set resample: true"):
        small_speech(tmp_path, sample_rate=16000)
    speech = small_speech(tmp_path, sample_rate=16000, resample=True, normalize_wave=False)
    for length in (150, 1000, WHOLE):
        windows = read(speech, recording(0, length))
        assert len(windows) == speech.num_tokens(0, length) == (2 * length - 200) // 128 + 1
    tone = np.sin(2 * np.pi * 440 * np.arange(WHOLE) / RATE).astype(np.float32)
    fine = np.sin(2 * np.pi * 440 * np.arange(2 * WHOLE) / 16000).astype(np.float32)
    resampled = read(speech, (tone, RATE))
    assert np.abs(resampled[5:20] - np.lib.stride_tricks.sliding_window_view(fine, 200)[::128][5:20]).max() < 1e-2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_seconds": 0.02}, r"max_seconds: 0.02 s at 8000 Hz are less than a token of 200 samples"),
        ({"stem": ((3, 4),)}, r"stem.0: expected 1 <= stride <= kernel, got \(3, 4\)"),
        ({"stem": ()}, "stem, channels: expected one layer"),
        ({"gradient_scale": -1.0}, "gradient_scale: expected 0 or more"),
    ],
)
def test_settings_that_can_not_be_are_refused_with_a_sentence(tmp_path, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        small_speech(tmp_path, **settings)


def test_a_field_without_a_rate_and_two_recordings_in_a_row_are_refused(tmp_path):
    facts = speech_facts(tmp_path)
    with pytest.raises(ConfigError, match="was not built by 'mmpt build speech'"):
        Speech(type(facts)(tmp_path, {}))
    speech = small_speech(tmp_path)
    one = read(speech, recording(0))
    with pytest.raises(ConfigError, match=r"layout: speech has a row of its own, got 2 in one; use samples or budget"):
        speech.collate([[one, one]], None)


# ---- the target


def test_the_target_is_the_windows_spectrum_with_mean_0_and_variance_1_in_every_band(tmp_path):
    speech = small_speech(tmp_path)
    content = collated(speech, LENGTHS)
    target = LogMelTarget(speech, mels=20)
    spectra = target(context_of(content))
    assert spectra.shape == (*content.valid.shape, target.size)
    for row in (0, 2, 3):
        own = spectra[row][content.valid[row]]
        assert_close(own.mean(0), torch.zeros(20), rtol=0, atol=1e-4)
        assert_close(own.std(0, correction=0), torch.ones(20), rtol=0, atol=1e-3)
    assert not spectra[~content.valid].any()
    assert not spectra[1].any()  # one frame has no deviation


def test_a_tone_lies_in_its_band(tmp_path):
    speech = small_speech(tmp_path)
    time = np.arange(WHOLE) / RATE
    tones = [np.sin(2 * np.pi * hertz * time).astype(np.float32) for hertz in (300, 3000)]
    mixed = np.where(np.arange(WHOLE) < WHOLE // 2, *tones)
    content = speech.collate([[read(speech, (mixed, RATE))]], None)
    spectra = LogMelTarget(speech, mels=20)(context_of(content))[0]
    low, high = spectra[:7].mean(0), spectra[-7:].mean(0)
    edges = 700 * (10 ** (torch.linspace(0, 2595 * np.log10(1 + 4000 / 700), 22) / 2595) - 1)
    for hertz, louder, fainter in ((300, low, high), (3000, high, low)):
        band = int((edges[1:-1] - hertz).abs().argmin())
        assert louder[band] - fainter[band] > 1.5
