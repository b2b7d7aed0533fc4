"""Strips of lead x time: what becomes a token, what never counts, and what is refused."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mmpt.build import build_modalities, build_model, build_sources, facts_of
from mmpt.config import component, parse_settings
from mmpt.data.schema import declare
from mmpt.data.source import row_draw
from mmpt.data.writer import ShardWriter
from mmpt.encoders import Facts, Modality
from mmpt.encoders.ecg import Ecg
from mmpt.errors import ConfigError, DataError
from mmpt.objectives.targets.signal import SignalTarget
from mmpt.settings import Recipe
from mmpt.tokens import Batch, StreamContext
from tests.encoders.ecg_material import LEADS, RATE, ecg_facts, ecg_modalities, ecg_values, recording

STRIPS = 17  # places in time


@pytest.fixture(scope="module")
def ecg(tmp_path_factory):
    return ecg_modalities(tmp_path_factory.mktemp("ecg"))["ecg"]


def read(ecg, value):
    return ecg.read(value, 0, len(value), None)


def collated(ecg, *values):
    return ecg.collate([[read(ecg, value)] for value in values], None)


@pytest.fixture(scope="module")
def encoder(ecg, randomised):
    return randomised(ecg.encoder(16)).eval()


# ---- what becomes a token


def test_a_token_is_the_z_score_of_one_leads_strip_in_its_place(ecg):
    value = recording(0)
    content = collated(ecg, value)
    assert content.values.shape == (1, 12 * 16, 64)
    assert content.full
    assert content.observed_count == 12 * 16
    mean, std = (np.asarray(ecg.facts.statistics[name]) for name in ("mean", "std"))
    for token in (0, 15, 16, 100, 191):
        lead, strip = divmod(token, 16)
        expected = (value[strip * 64 : strip * 64 + 64, lead] - mean[lead]) / std[lead]
        assert_close(content.values[0, token].numpy(), expected.astype(np.float32), rtol=0, atol=1e-5)
        assert content.place[0, token] == lead * STRIPS + strip


def test_a_missing_lead_has_no_tokens_and_the_others_keep_their_places(ecg):
    whole, lacking = collated(ecg, recording(0)), collated(ecg, recording(0, missing=("II", "V6")))
    kept = [place for place in whole.place[0].tolist() if LEADS[place // STRIPS] not in ("II", "V6")]
    assert lacking.place[0].tolist() == kept
    there = torch.isin(whole.place[0], lacking.place[0])
    assert torch.equal(lacking.values[0], whole.values[0, there])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_one_sample_that_is_no_number_makes_its_lead_missing(ecg, number):
    value = recording(0)
    value[400, 3] = number
    assert torch.equal(collated(ecg, value).values, collated(ecg, recording(0, missing=("aVR",))).values)


def test_samples_behind_the_last_whole_strip_never_matter(ecg):
    value = recording(0)
    for other in (np.nan, 1e9, 0.0):
        changed = value.copy()
        changed[16 * 64 :] = other
        for normalize in ("statistics", "strip"):
            own = Ecg(ecg.facts, max_seconds=2.2, patch=64, normalize=normalize)
            assert np.array_equal(read(own, changed), read(own, value))


def test_a_recording_can_be_normalised_by_itself(ecg):
    own = Ecg(Facts(ecg.facts.folder, ecg.facts.values), max_seconds=2.2, patch=64, normalize="strip")
    leads = read(own, recording(0, missing=("V2",)) * 7 + 3).reshape(12, -1)
    present = [lead != "V2" for lead in LEADS]
    assert_close(leads[present].mean(1), np.zeros(11, np.float32), rtol=0, atol=1e-5)
    assert_close(leads[present].std(1, ddof=1), np.ones(11, np.float32), rtol=0, atol=1e-5)
    assert np.isnan(leads[LEADS.index("V2")]).all()


def test_a_lead_that_never_varies_stays_finite(ecg):
    value = recording(0)
    value[:, 5] = 0.25
    for normalize in ("statistics", "strip"):
        assert np.isfinite(read(Ecg(ecg.facts, max_seconds=2.2, patch=64, normalize=normalize), value)).all()


def test_another_rate_is_resampled_to_the_same_picture(ecg):
    """A slow wave has the same strips at 250 Hz, but for the filter's edges."""
    wave = lambda rate: np.repeat(np.sin(np.arange(2 * rate) / rate * 6.28 * 3)[:, None], 12, axis=1)  # noqa: E731
    facts = Facts(ecg.facts.folder, {**ecg.facts.values, "sample_rate": 250}, ecg.facts.statistics)
    slow = Ecg(facts, max_seconds=2.0, patch=50, sample_rate=RATE, resample=True)
    fast = Ecg(ecg.facts, max_seconds=2.0, patch=50)
    assert slow.limit == 500
    assert slow.max_places == fast.max_places == 20
    first, second = read(slow, wave(250)), read(fast, wave(RATE))
    assert len(first) == slow.num_tokens(0, 500)
    assert_close(first[2:18], second[2:18], rtol=0, atol=0.02)
    lacking = wave(250)
    lacking[3, 0] = np.inf
    again = read(slow, lacking)
    assert np.isnan(again[:20]).all()
    assert np.array_equal(again[20:], first[20:])


def test_long_recordings_are_cut_and_a_rest_without_a_strip_is_left_out(ecg):
    assert ecg.limit == 1100
    assert ecg.pieces(2300) == [(0, 1100), (1100, 2200), (2200, 2300)]
    assert ecg.pieces(2250) == [(0, 1100), (1100, 2200)]
    assert ecg.pieces(63) == []


def test_tokens_are_named_by_lead_and_time(tmp_path):
    ecg = Ecg(ecg_facts(tmp_path), patch=100)
    value = recording(0, 250, missing=("I",))
    content = ecg.collate([[read(ecg, value)], [read(ecg, recording(1, 250))]], None)
    names = ecg.token_names(content, 0)
    assert names[:3] == ["II 0.00-0.20 s", "II 0.20-0.40 s", "III 0.00-0.20 s"]
    assert names[-2:] == ["", ""]
    assert Ecg(ecg_facts(tmp_path), patch=64).token_names(collated(ecg, value), 0)[0].endswith(" s")


# ---- what never counts


def test_what_stands_in_padding_changes_no_token_and_no_loss(ecg, encoder):
    content = collated(ecg, recording(1, 610, ("II",)), recording(0))
    assert not content.valid.all()
    target = SignalTarget(ecg)
    context = lambda content: StreamContext(content, torch.arange(2), 0.0)  # noqa: E731
    choice = torch.rand(content.valid.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before, others = encoder(content), encoder.substitute(content, choice)
    truth = target(context(content))[content.valid]
    for filler in (0.0, float("nan"), 1e9):
        values = torch.where(content.valid.unsqueeze(2), content.values, filler)
        changed = content._replace(values=values)
        after = encoder(changed)
        assert torch.equal(after.x, before.x)
        assert torch.equal(encoder.substitute(changed, choice), others)
        assert torch.equal(target(context(changed))[content.valid], truth)


def test_substitutes_are_other_strips_of_the_same_recording(ecg, encoder):
    content = collated(ecg, recording(1, 610, ("II",)), recording(0))
    choice = (torch.arange(192).double() + 0.5)[None] / 192
    others = encoder.substitute(content, choice.expand(2, -1))
    count = int(content.valid[0].sum())
    assert torch.equal(others[1], encoder(content).x[1])
    assert_close(others[0], encoder(content).x[0, (choice[0] * count).long()], rtol=0, atol=1e-6)


def test_a_padded_row_equals_the_row_alone(ecg, encoder):
    values = recording(1, 610, ("II",)), recording(0)
    together = encoder(collated(ecg, *values))
    alone = encoder(collated(ecg, values[0]))
    count = alone.x.shape[1]
    assert_close(together.x[0, :count], alone.x[0], rtol=0, atol=1e-6)
    assert torch.equal(together.position[0, :count], alone.position[0])


def test_positions_differ_between_leads_and_between_times(ecg, encoder):
    position = encoder(collated(ecg, recording(0))).position[0]
    assert len(position.unique(dim=0)) == len(position)


def test_positions_can_be_learned(ecg, randomised):
    learned = Ecg(ecg.facts, max_seconds=2.2, patch=64, positions="learned")
    encoder = randomised(learned.encoder(16))
    encoder(collated(learned, recording(0))).position.sum().backward()
    used = encoder.position.grad.abs().sum(1) > 0
    assert int(used.sum()) == 12 * 16


# ---- targets


def test_the_target_is_the_signal_and_its_loss_the_mean_of_squares(ecg):
    content = collated(ecg, recording(0))
    context = StreamContext(content, torch.arange(1), 0.0)
    plain = SignalTarget(ecg)
    assert plain.size == 64
    assert torch.equal(plain(context), content.values)
    truth = plain(context)[0]
    assert_close(plain.loss(truth + 2, truth), torch.full((len(truth),), 4.0), rtol=1e-5, atol=1e-5)
    own = SignalTarget(ecg, normalize=True)(context)
    expected = (content.values - content.values.mean(2, keepdim=True)) / content.values.std(2, keepdim=True)
    assert_close(own, expected, rtol=0, atol=1e-3)


def test_other_modalities_have_no_signal(text, image):
    for modality in (text, image):
        with pytest.raises(ConfigError, match="target 'signal' has a meaning for ECG only"):
            SignalTarget(modality)


# ---- what users hand over


def test_arrays_and_dicts_of_leads_become_the_same_recording(ecg):
    value = recording(0, missing=("aVF",))
    by_lead = {lead: value[:, n].astype(np.float64) for n, lead in enumerate(LEADS) if lead != "aVF"}
    assert np.array_equal(ecg.convert(value), value, equal_nan=True)
    assert np.array_equal(ecg.convert(dict(reversed(by_lead.items()))), value, equal_nan=True)
    assert ecg.convert(by_lead).dtype == np.float32


def test_one_lead_needs_no_second_axis(tmp_path):
    single = Ecg(ecg_facts(tmp_path, ("II",)), patch=10)
    assert single.convert(np.arange(50)).shape == (50, 1)
    assert read(single, single.convert(np.arange(50))).shape == (5, 10)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"avl": np.zeros(99)}, "no lead 'avl'; the leads are I, II, .*, and the nearest is 'aVL'"),
        ({"V7": np.zeros(99)}, "no lead 'V7'; .* nearest is 'V"),
        ({"I": np.zeros(99), "II": np.zeros(98)}, "all of one length, got 'I': float64 of 99, 'II': float64 of 98"),
        ({"I": np.zeros((99, 1))}, "expected an array .T. for each lead"),
        ({"I": [1.0, 2.0]}, "got 'I': list"),
        ({}, "got no lead"),
        (np.zeros((99, 8)), "expected an array of T x 12 .I, II.* got float64 of 99 x 8"),
        (np.zeros(99), "got float64 of 99"),
        (np.full((99, 12), "x"), "got <U1 of 99 x 12"),
        ("recording", "got str"),
        (None, "got NoneType"),
    ],
)
def test_anything_else_is_refused_with_what_was_expected(ecg, value, sentence):
    with pytest.raises(DataError, match=sentence):
        ecg.convert(value)


def test_a_recording_of_other_leads_or_without_any_or_too_short_is_refused(ecg):
    with pytest.raises(DataError, match=r"expected an array of T x 12 .* got float32 of 1030 x 11"):
        read(ecg, recording(0)[:, :11])
    with pytest.raises(DataError, match=r"no lead is observed: each of I, II, .*V6 has samples that are not numbers"):
        read(ecg, recording(0, missing=LEADS))
    with pytest.raises(DataError, match="63 samples at 500 Hz are less than a strip of 64"):
        read(ecg, recording(0, 63))


@pytest.mark.parametrize(
    ("facts", "settings", "sentence"),
    [
        ({"leads": None}, {"patch": 50}, "facts have leads; .* was not built by 'mmpt build ecg'"),
        ({"sample_rate": None}, {"patch": 50}, "facts have sample_rate; .* was not built by 'mmpt build ecg'"),
        ({}, {"patch": 1}, "patch: expected at least 2 samples, got 1"),
        ({}, {"patch": 50, "sample_rate": 250}, "the data have 500 Hz, and 250 Hz were asked for; set resample: true"),
        ({}, {"patch": 501, "max_seconds": 1}, "1.0 s at 500 Hz are less than a strip of 501 samples"),
        ({"leads": ["I", "II"]}, {"patch": 50}, "needs 'mean' of each of the 2 leads .* use normalize: strip"),
    ],
)
def test_facts_and_settings_that_do_not_fit_are_refused(ecg, facts, settings, sentence):
    values = {name: value for name, value in {**ecg.facts.values, **facts}.items() if value is not None}
    with pytest.raises(ConfigError, match=sentence):
        component(Modality, "ecg", **settings).build(Facts(ecg.facts.folder, values, ecg.facts.statistics))


def test_two_recordings_never_share_a_row(ecg):
    one = read(ecg, recording(0))
    with pytest.raises(ConfigError, match="an ECG has a row of its own, got 2 in one; use samples or budget"):
        ecg.collate([[one, one]], None)


# ---- from shards to a loss

RECIPE = """
streams:
  ecg: STREAM
trunk: {type: transformer, width: 16, depth: 1, heads: 2}
objective:
  type: masked_prediction
  streams:
    ecg:
      masking: {ratio: 0.5, unit: time_span}
      corruption: drop
      predictor: {type: decoder, width: 16, depth: 1, heads: 2}
      target: signal
data:
  sources:
    hearts: {shards: SHARDS, streams: [ecg], split: train}
  batch_size: 4
training:
  steps: 2
  optimizer: {learning_rate: 1e-3}
"""
STREAMS = {
    "ecg": "{type: ecg, patch: 64, max_seconds: 2.2, normalize: strip}",
    "ecg_stem": "{type: ecg_stem, channels: 8, max_seconds: 2.2, normalize: strip, lead_dropout: 0.3, groups: 4}",
}


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """Recordings that lack leads, are longer than a row or shorter than a strip, in tars."""
    folder = tmp_path_factory.mktemp("hearts") / "shards"
    facts = ecg_facts(folder).values
    recordings = [*ecg_values()[:5], recording(20, 2400), recording(21, 10)]
    with ShardWriter(folder, fields={"ecg": declare("ecg", "ecg.npy", **facts)}) as writer:
        for value in recordings:
            writer.write({"ecg": value, "__split__": "train"})
    return folder


@pytest.mark.parametrize("name", STREAMS)
def test_recordings_in_shards_train_whatever_they_lack(hearts, name):
    recipe = parse_settings(RECIPE.replace("SHARDS", str(hearts)).replace("STREAM", STREAMS[name]), [], Recipe)
    modalities = build_modalities(recipe.streams, facts_of(recipe))
    (source,) = build_sources(recipe, modalities)
    model = build_model(recipe, modalities)
    # five short recordings, three pieces of the long one, and nothing of the one without a strip
    assert source.plan.num_bins == 8
    rows = source.rows(list(range(8)))
    assert not rows.skips
    batch = Batch(rows.streams, rows.uid, row_draw(0, rows.epoch, rows.uid), "hearts", 0)
    content = batch.streams["ecg"]
    assert content.valid.any(1).all()
    assert not content.valid.all()
    hidden = model.hide(batch, 0.0)
    loss = model(batch, hidden, 0.0).losses["ecg"]
    loss.total.backward()
    assert torch.isfinite(loss.rows).all()
    assert (loss.rows > 0).all()
    gradients = [parameter.grad for parameter in model.backbone.encoders.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    padding = content.valid.view(*content.valid.shape, *(1,) * (content.values.dim() - 2))
    for filler in (0.0, float("nan"), 1e9):
        changed = content._replace(values=torch.where(padding, content.values, filler))
        again = model(batch._replace(streams={"ecg": changed}), hidden, 0.0).losses["ecg"]
        assert torch.equal(again.rows, loss.rows)
