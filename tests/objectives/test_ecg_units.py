"""What is hidden together of an ECG: leads, stretches of time, blocks of both."""

import pytest
import torch

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.objectives.masking.unit import Unit
from mmpt.tokens import Content, StreamContext
from tests.encoders.ecg_material import LEADS, ecg_modalities, recording

ROWS = 40
STRIPS = 17  # places in time of a lead


@pytest.fixture(scope="module")
def ecg(tmp_path_factory):
    return ecg_modalities(tmp_path_factory.mktemp("ecg"))["ecg"]


@pytest.fixture(scope="module")
def stem(tmp_path_factory):
    return ecg_modalities(tmp_path_factory.mktemp("stem"))["ecg_stem"]


def context_of(modality, *values, rows=ROWS):
    """Every recording `rows` times, with draws of their own."""
    content = modality.collate([[modality.read(value, 0, len(value), None)] for value in values], None)
    content = Content(*(tensor.repeat_interleave(rows, dim=0) for tensor in content[:5]))
    return StreamContext(content, torch.arange(len(content.valid)) * 7919, 0.0)


def unit_of(modality, name, **settings):
    return component(Unit, name, **settings).build(modality)


def hidden_by(modality, context, ratio, name, **settings):
    return Masking(modality, MaskingSettings(ratio=ratio, unit=component(Unit, name, **settings)))(context)


def leads_and_strips(context):
    """Lead and strip of every token, and the row's valid ones."""
    return context.content.place // STRIPS, context.content.place % STRIPS, context.content.valid


def test_whole_leads_are_hidden_or_shown(ecg):
    context = context_of(ecg, recording(0), recording(1, 610, ("II", "V3")))
    hidden = hidden_by(ecg, context, 0.5, "lead")
    leads, _, valid = leads_and_strips(context)
    seen = set()
    for row in range(len(hidden)):
        for lead in leads[row, valid[row]].unique().tolist():
            own = hidden[row, valid[row] & (leads[row] == lead)]
            assert own.all() or not own.any()
            seen.add((lead, bool(own.all())))
        assert hidden[row].sum() * 2 == valid[row].sum()
    assert seen == {(lead, state) for lead in range(12) for state in (True, False)}


def test_the_same_times_are_hidden_in_all_leads(ecg):
    context = context_of(ecg, recording(0), recording(1, 610, ("II", "V3")))
    hidden = hidden_by(ecg, context, 0.4, "time_span", length=3)
    _, strips, valid = leads_and_strips(context)
    for row in range(len(hidden)):
        for strip in strips[row, valid[row]].unique():
            own = hidden[row, valid[row] & (strips[row] == strip)]
            assert own.all() or not own.any()


def test_stretches_have_their_length_and_a_random_phase(ecg):
    context = context_of(ecg, recording(0))
    units = unit_of(ecg, "time_span", length=5).units(context)
    firsts = set()
    for row in range(ROWS):
        own = units[row, :16]  # the strips of the first lead
        counts = torch.unique_consecutive(own, return_counts=True)[1].tolist()
        assert all(count == 5 for count in counts[1:-1])
        assert max(counts) <= 5
        firsts.add(counts[0])
        assert torch.equal(units[row].view(12, 16), own.expand(12, 16))
    assert firsts == {1, 2, 3, 4, 5}


def test_blocks_are_rectangles_of_leads_and_strips_with_random_phases(ecg):
    context = context_of(ecg, recording(0))
    units = unit_of(ecg, "lead_block", leads=3, strips=4).units(context).view(ROWS, 12, 16)
    corners = set()
    for grid in units:
        for number in grid.unique():
            lead, strip = (grid == number).nonzero(as_tuple=True)
            size = int(lead.max() - lead.min()) + 1, int(strip.max() - strip.min()) + 1
            assert size[0] * size[1] == len(lead)
            assert size[0] <= 3
            assert size[1] <= 4
            inside = lead.min() > 0 and lead.max() < 11 and strip.min() > 0 and strip.max() < 15
            assert size == (3, 4) or not inside
        lead, strip = (grid == grid[0, 0]).nonzero(as_tuple=True)
        corners.add((int(lead.max()) + 1, int(strip.max()) + 1))
    assert corners == {(leads, strips) for leads in (1, 2, 3) for strips in (1, 2, 3, 4)}


def test_a_block_never_bridges_a_missing_lead(ecg):
    """Leads keep their numbers, so neighbours of a missing lead are no closer than they were."""
    missing = LEADS[1:11]
    context = context_of(ecg, recording(0, missing=missing))
    units = unit_of(ecg, "lead_block", leads=3, strips=4).units(context)
    for row in units:
        assert not set(row[:16].tolist()) & set(row[16:32].tolist())


def test_time_spans_of_the_stem_are_runs_of_tokens(stem):
    context = context_of(stem, recording(0))
    for name, settings in (("time_span", {"length": 6}), ("span", {"length": 6, "lengths": "fixed"})):
        units = unit_of(stem, name, **settings).units(context)
        phases = set()
        for row in units:
            assert (row.diff() >= 0).all()
            counts = row.unique_consecutive(return_counts=True)[1].tolist()
            assert all(count == 6 for count in counts[1:-1])
            phases.add(counts[0])
        assert len(phases) == 6


@pytest.mark.parametrize("name", ["lead", "time_span", "lead_block"])
def test_padding_does_not_change_what_is_hidden(ecg, name):
    """A short recording beside a long one, and alone."""
    short = recording(1, 610, ("II", "V3"))
    alone, beside = context_of(ecg, short, rows=20), context_of(ecg, short, recording(0), rows=20)
    own = hidden_by(ecg, alone, 0.4, name)
    size = own.shape[1]
    both = hidden_by(ecg, beside, 0.4, name)[:20]
    assert torch.equal(both[:, :size], own)
    assert not both[:, size:].any()


@pytest.mark.parametrize("name", ["lead", "time_span", "lead_block", "span", "token"])
@pytest.mark.parametrize("missing", [(), ("I", "aVL", "V1")])
def test_the_share_is_kept_on_average(ecg, name, missing):
    context = context_of(ecg, recording(0, missing=missing), rows=2000)
    settings = MaskingSettings(ratio=0.45, unit=component(Unit, name), rounding="dither")
    shares = Masking(ecg, settings)(context).double().mean(1)
    assert abs(shares.mean() - 0.45) <= 4 * shares.std() / len(shares) ** 0.5 + 1e-9


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("time_span", {"length": 18}, "length: expected 1 to 17 strips, got 18"),
        ("lead_block", {"leads": 13}, "expected 1 to 12 leads and 1 to 17 strips, got 13 and 4"),
        ("lead_block", {"strips": 0}, "expected 1 to 12 leads and 1 to 17 strips, got 3 and 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(ecg, name, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        unit_of(ecg, name, **settings)


def test_units_without_a_meaning_for_a_modality_are_refused(stem, text, image):
    for name in ("lead", "lead_block", "time_span"):
        for modality in (text, image):
            with pytest.raises(ConfigError, match=f"unit '{name}' has a meaning for "):
                unit_of(modality, name)
    for name in ("lead", "lead_block"):
        with pytest.raises(ConfigError, match=f"unit '{name}' has a meaning for strips of single leads only"):
            unit_of(stem, name)
