"""The convolutional stem: its geometry, missing and left-out leads, padding, and positions."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmpt.encoders.ecg_stem import LEFT_OUT, MISSING, SHOWN, STRIDE, EcgStem
from mmpt.errors import ConfigError
from mmpt.objectives.targets.signal import SignalTarget
from mmpt.tokens import StreamContext, drop, replace
from tests.encoders.ecg_material import LEADS, ecg_facts, ecg_modalities, recording


@pytest.fixture(scope="module")
def stem(tmp_path_factory):
    return ecg_modalities(tmp_path_factory.mktemp("stem"))["ecg_stem"]


@pytest.fixture(scope="module")
def encoder(stem, randomised):
    return randomised(stem.encoder(16)).eval()


def read(stem, value, draw=None):
    return stem.read(value, 0, len(value), draw)


def collated(stem, *values, draw=None):
    return stem.collate([[read(stem, value, draw)] for value in values], None)


def context_of(content):
    return StreamContext(content, torch.arange(len(content.valid)), 0.0)


def with_signal(content, where, filler):
    """Other samples where the flags (B N 1 C) say so."""
    signal = torch.where(where, filler, content.values[:, :, :STRIDE])
    return content._replace(values=torch.cat([signal, content.values[:, :, STRIDE:]], dim=2))


# ---- geometry


@pytest.mark.parametrize(("samples", "tokens"), [(5000, 312), (2500, 156), (1030, 64), (16, 1)])
def test_sixteen_samples_are_a_token(tmp_path, samples, tokens):
    stem = EcgStem(ecg_facts(tmp_path), channels=16)
    assert stem.num_tokens(0, samples) == tokens
    assert read(stem, recording(0, samples)).shape == (tokens, STRIDE + 1, 12)


@pytest.mark.parametrize("normalize", ["statistics", "strip"])
def test_the_last_samples_never_matter(tmp_path, normalize):
    stem = EcgStem(ecg_facts(tmp_path), channels=16, normalize=normalize)
    value = recording(0, 5000)
    for other in (np.nan, 1e9):
        changed = value.copy()
        changed[4992:] = other
        assert np.array_equal(read(stem, changed), read(stem, value))


def test_the_stem_is_four_convolutions_with_a_group_norm_behind_the_first(stem, encoder):
    """As wav2vec 2.0 writes it, with the weights carried over."""
    content = collated(stem, recording(0), recording(4))
    assert content.full
    x = content.values[:, :, :STRIDE].flatten(1, 2).transpose(1, 2)  # B C T
    for layer, linear in enumerate(encoder.convolutions):
        convolution = nn.Conv1d(x.shape[1], len(linear.weight), 2, stride=2, bias=False)
        convolution.weight.data = linear.weight.unflatten(1, (2, -1)).transpose(1, 2).contiguous()
        x = convolution(x)
        if layer == 0:
            norm = nn.GroupNorm(16, 16)
            norm.weight.data, norm.bias.data = encoder.first_norm.weight.data, encoder.first_norm.bias.data
            x = norm(x)
        x = nn.functional.gelu(x)
    expected = encoder.projection(encoder.norm(x.transpose(1, 2)))
    assert_close(encoder(content).x, expected, rtol=0, atol=1e-5)


# ---- missing leads, padding


def test_a_padded_row_equals_the_row_alone(stem, encoder):
    values = recording(1, 610, ("II",)), recording(0)
    both, alone = collated(stem, *values), collated(stem, values[0])
    together, single = encoder(both), encoder(alone)
    count = single.x.shape[1]
    assert_close(together.x[0, :count], single.x[0], rtol=0, atol=1e-5)
    settled = encoder.settle(replace(together, together.x), both.valid.shape[1]).tokens.position
    own = encoder.settle(replace(single, single.x), count).tokens.position
    assert_close(settled[0, :count], own[0], rtol=0, atol=1e-5)


def test_what_stands_in_missing_leads_and_padding_changes_no_token_and_no_loss(stem, encoder):
    content = collated(stem, recording(1, 610, ("II", "V3")), recording(0, missing=("I",)))
    missing = content.values[:, :, STRIDE:] == MISSING
    assert missing[content.valid].any()
    choice = torch.rand(content.valid.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, others = encoder(content).x, encoder.substitute(content, choice)
    for target in (SignalTarget(stem), SignalTarget(stem, normalize=True, source="shown")):
        truth = target(context_of(content))[content.valid]
        prediction = torch.zeros_like(truth, requires_grad=True)
        loss = target.loss(prediction, truth)
        loss.sum().backward()
        assert prediction.grad is not None
        assert prediction.grad.isfinite().all()
        for filler in (0.0, float("nan"), 1e9):
            changed = with_signal(content, missing | ~content.valid[:, :, None, None], filler)
            assert torch.equal(encoder(changed).x, x)
            assert torch.equal(encoder.substitute(changed, choice), others)
            assert torch.equal(target.loss(prediction, target(context_of(changed))[content.valid]), loss)


def test_a_missing_lead_and_one_at_the_mean_are_the_same_to_the_stem_but_not_to_the_loss(stem, encoder):
    lacking = collated(stem, recording(0, missing=("V2",)))
    value = recording(0)
    value[:, LEADS.index("V2")] = np.float32(stem.facts.statistics["mean"][LEADS.index("V2")])
    flat = collated(stem, value)
    assert_close(encoder(lacking).x, encoder(flat).x, rtol=0, atol=1e-5)
    target = SignalTarget(stem)
    truth = target(context_of(lacking))[0]
    assert (~truth.isnan()).sum(1).tolist() == [11 * STRIDE] * len(truth)
    wrong = torch.where(truth.isnan(), 100.0, truth)
    assert (target.loss(wrong, truth) == 0).all()
    assert (target.loss(wrong, target(context_of(flat))[0]) > 100).all()


def test_the_loss_is_the_mean_over_what_was_measured(stem):
    target = SignalTarget(stem)
    assert target.size == 16 * 12
    truth = target(context_of(collated(stem, recording(0, missing=("I", "V6")))))[0]
    assert_close(target.loss(truth.nan_to_num() + 3, truth), torch.full((len(truth),), 9.0), rtol=1e-5, atol=1e-5)


def test_the_target_has_time_first_and_leads_inside(stem):
    content = collated(stem, recording(0))
    truth = SignalTarget(stem)(context_of(content))[0]
    assert torch.equal(truth[3, 12 * 5 + 7], content.values[0, 3, 5, 7])
    own = SignalTarget(stem, normalize=True)(context_of(content))[0].unflatten(1, (STRIDE, 12))
    assert_close(own.mean(1), torch.zeros(len(own), 12), rtol=0, atol=1e-4)


# ---- leads left out in training


def flags_of(strips):
    assert (strips[:, STRIDE] == strips[:1, STRIDE]).all()
    return strips[0, STRIDE]


def test_leads_are_left_out_with_their_share_by_the_draw_alone(stem):
    dropping = EcgStem(stem.facts, max_seconds=2.2, channels=16, lead_dropout=0.5)
    value = recording(0, missing=("II",))
    flags = np.stack([flags_of(read(dropping, value, draw)) for draw in range(300)])
    assert (flags[:, 1] == MISSING).all()
    present = np.delete(flags, 1, axis=1)
    assert set(np.unique(present)) == {LEFT_OUT, SHOWN}
    assert abs((present == LEFT_OUT).mean(0) - 0.5).max() < 4 * (0.25 / 300) ** 0.5
    assert (flags_of(read(dropping, value)) != LEFT_OUT).all()
    again = read(dropping, value, 7)
    assert np.array_equal(again, read(dropping, value, 7))
    assert np.array_equal(again[:, :STRIDE], read(dropping, value)[:, :STRIDE])


def test_one_observed_lead_always_stays(stem):
    dropping = EcgStem(stem.facts, max_seconds=2.2, channels=16, lead_dropout=0.95)
    value = recording(0, 32, missing=LEADS[2:])
    flags = np.stack([flags_of(read(dropping, value, draw)) for draw in range(200)])
    assert ((flags == SHOWN).sum(1) >= 1).all()
    assert (flags[:, 2:] == MISSING).all()
    assert set(map(tuple, flags[:, :2])) >= {(SHOWN, LEFT_OUT), (LEFT_OUT, SHOWN)}


def test_a_lead_that_is_left_out_is_zero_to_the_stem_and_true_to_the_target(stem, encoder):
    dropping = EcgStem(stem.facts, max_seconds=2.2, channels=16, lead_dropout=0.5)
    content = collated(dropping, recording(0), draw=11)
    left_out = content.values[:, :, STRIDE:] == LEFT_OUT
    assert left_out.any()
    assert torch.equal(encoder(with_signal(content, left_out, 50.0)).x, encoder(content).x)
    assert not torch.equal(encoder(content).x, encoder(collated(stem, recording(0))).x)
    clean = SignalTarget(stem)(context_of(content))
    assert torch.equal(clean, content.values[:, :, :STRIDE].flatten(2))
    shown = SignalTarget(stem, source="shown")(context_of(content)).unflatten(2, (STRIDE, 12))
    assert (shown[left_out.expand_as(shown)] == 0).all()
    assert torch.equal(shown[~left_out.expand_as(shown)], clean.unflatten(2, (STRIDE, 12))[~left_out.expand_as(shown)])


# ---- positions


def test_convolutional_positions_look_at_shown_tokens_alone(stem, encoder):
    content = collated(stem, recording(0), recording(1, 610))
    tokens = encoder(content)
    hidden = content.valid & (torch.arange(content.valid.shape[1]) % 3 == 1)
    shown = drop(tokens, hidden, None)
    settled = encoder.settle(shown, content.valid.shape[1]).tokens.position
    other = tokens._replace(x=torch.where((hidden | ~content.valid).unsqueeze(2), 9.0, tokens.x))
    again = encoder.settle(drop(other, hidden, None), content.valid.shape[1]).tokens.position
    assert torch.equal(settled[shown.tokens.valid], again[shown.tokens.valid])
    moved = tokens._replace(x=tokens.x + (torch.arange(content.valid.shape[1]) == 3)[None, :, None])
    near = encoder.settle(drop(moved, hidden, None), content.valid.shape[1]).tokens.position
    changed = (near - settled).abs().amax(2)[0] > 1e-4
    assert changed[shown.places[0] == 5].all()
    assert not changed[shown.places[0] > 3 + stem.kernel].any()


def test_sine_cosine_positions_need_no_settling(stem, randomised):
    fixed = EcgStem(stem.facts, max_seconds=2.2, channels=16, positions="sincos")
    encoder = randomised(fixed.encoder(16))
    content = collated(fixed, recording(0))
    tokens = encoder(content)
    assert torch.equal(tokens.position[0], encoder.place_table(16)[content.place[0]])
    shown = replace(tokens, tokens.x)
    assert encoder.settle(shown, 64) is shown


def test_every_weight_learns(stem, randomised):
    encoder = randomised(stem.encoder(16))
    content = collated(stem, recording(0), recording(1, 610, ("II",)))
    tokens = encoder(content)
    tokens = encoder.settle(replace(tokens, tokens.x), content.valid.shape[1]).tokens
    (tokens.x + tokens.position)[content.valid].square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in encoder.parameters())


# ---- names, refusals


def test_tokens_are_named_by_time(stem):
    content = collated(stem, recording(0), recording(1, 610))
    assert stem.token_names(content, 0)[:2] == ["0.000-0.032 s", "0.032-0.064 s"]
    assert stem.token_names(content, 1)[37:39] == ["1.184-1.216 s", ""]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lead_dropout": 1.0}, "lead_dropout: expected a share from 0 to below 1, got 1.0"),
        ({"channels": 0}, "channels, kernel, groups: expected at least 1, got 0, 128 and 16"),
        ({"max_seconds": 0.03}, "0.03 s at 500 Hz are less than a strip of 16 samples"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        EcgStem(ecg_facts(tmp_path), **settings)
