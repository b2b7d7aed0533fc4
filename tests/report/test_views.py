"""What the views of speech, ECG and laboratory tables show is what was measured, hidden and predicted."""

import base64
import dataclasses
import io

import numpy as np
import pytest
import torch
from clinic import CENTRE, COLUMNS, LEADS, RATE, STREAMS, heart, visit, write_run, write_visits
from PIL import Image

from mmpt.data.manifest import load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.pretrained import load_pretrained
from mmpt.encoders import Modality
from mmpt.encoders.speech_mel import SpeechMel
from mmpt.errors import DataError
from mmpt.objectives import Prediction
from mmpt.objectives.targets import Target
from mmpt.report import write_report
from mmpt.report.drawing import drawn
from mmpt.report.paper import Recording, draw_recording
from mmpt.report.reconstructions import reconstruct
from mmpt.report.show import show
from mmpt.report.views import view_of
from mmpt.report.views.labs import Cell
from mmpt.tokens import StreamContext


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    return write_visits(tmp_path_factory.mktemp("visits") / "shards")


@pytest.fixture(scope="module")
def labs_run(visits, tmp_path_factory):
    return load_pretrained(write_run(tmp_path_factory.mktemp("labs") / "run", visits, {"labs": STREAMS["labs"]}))


def raw(visits, key, field):
    manifest = load_manifest(visits)
    reader = Reader(manifest, [field])
    value = reader.read(list(manifest.column("key")).index(key))[field]
    reader.close()
    return value


def told(hidden, numbers, places):
    """A prediction for one row, as an objective would give it."""
    places = torch.tensor(places)
    return Prediction(torch.tensor([hidden]), torch.tensor(numbers), torch.zeros_like(places), places)


def test_a_stream_without_a_view_gets_a_sentence(labs_run):
    class Unseen(Target):
        def __init__(self):
            super().__init__()

        def forward(self, context):
            return context.content.values

        def loss(self, prediction, target):
            return prediction.sum(1)

    labs = labs_run.modalities["labs"]
    assert view_of(labs, Unseen()) == "predictions of target 'test_views' can't be shown"
    taste = type("Taste", (Modality,), {"__module__": "parts.taste"})
    taste.__abstractmethods__ = frozenset()
    assert view_of(taste(), Unseen()) == "there is no view for what type 'taste' reads"


@pytest.fixture(scope="module")
def tables(labs_run):
    return [sample for part in reconstruct(labs_run) for sample in part.samples]


@pytest.fixture(scope="module")
def labs_view(labs_run):
    return view_of(labs_run.modalities["labs"], labs_run.model.objective.part("labs").target)


def cells_of(labs_run, cells):
    labs = labs_run.modalities["labs"]
    return labs.collate([[labs.read(np.array(cells, dtype=np.float64), 0, labs.limit, None)]], None)


def test_measured_cells_are_shown_in_their_own_units_and_no_others(tables, visits):
    assert len(tables) == 4
    for sample in tables:
        seen = sample.seen["labs"]
        measured = {COLUMNS[int(c)]["name"]: (int(c), value) for c, value in raw(visits, sample.key, "labs")}
        assert {cell.item for cell in (*seen.hidden, *seen.shown)} == set(measured)
        assert seen.hidden
        for cell in (*seen.hidden, *seen.shown):
            column, value = measured[cell.item]
            if column in CENTRE:
                assert float(cell.true) == pytest.approx(value, rel=1e-3)
            else:
                assert cell.true == COLUMNS[column]["categories"][int(value)]
            assert cell.unit == (COLUMNS[column]["unit"] or "")


def test_only_hidden_cells_have_predictions(tables):
    for sample in tables:
        seen = sample.seen["labs"]
        assert all(cell.predicted and cell.error for cell in seen.hidden)
        assert not any(cell.predicted or cell.error for cell in seen.shown)


def test_predictions_are_put_back_into_units_and_categories_named(labs_run, labs_view):
    content = cells_of(labs_run, [(0, 1.3), (1, 1), (3, 2), (4, 95.0)])
    logits = np.log([0.2, 0.8, 0.1, 0.6, 0.3])  # two of sex, three of site
    numbers = np.stack([np.r_[1.0, logits], np.r_[9.0, logits], np.r_[9.0, logits]]).astype(np.float32)
    seen = labs_view.view(content, told([True, True, True, False], numbers.tolist(), [0, 1, 2]), 0)
    assert seen.hidden == [
        Cell("creatinine", "mg/dl", "1.3", "1.3", seen.hidden[0].error),
        Cell("sex", "", "male", "male 80 %, female 20 %", "0.20", True),
        Cell("site", "", "west", "south 60 %, west 30 %", "0.70", False),
    ]
    assert abs(float(seen.hidden[0].error)) < 1e-6
    assert [cell.item for cell in seen.shown] == ["glucose"]


def test_errors_are_predicted_minus_true(labs_run, labs_view):
    content = cells_of(labs_run, [(4, 75.0)])
    seen = labs_view.view(content, told([True], [[1.5] + [0.0] * 5], [0]), 0)
    assert seen.hidden == [Cell("glucose", "mg/dl", "75", "125", "+50")]


def test_the_page_and_the_figure_have_a_line_a_cell(labs_view, tables):
    seen = tables[0].seen["labs"]
    page = labs_view.html(seen, "labs")
    assert page.count("<tr>") == len(seen.hidden) + len(seen.shown) + (2 if seen.shown else 1)
    assert "<b>" not in page
    assert labs_view.height(seen) > 0.2 * len(seen.hidden)


ECGS = {
    "patches": ("{type: ecg, patch: 20, max_seconds: 2.0}", 0.4, "{type: signal}"),
    "standardised patches": ("{type: ecg, patch: 20, max_seconds: 2.0}", 0.4, "{type: signal, normalize: true}"),
    "stem": ("{type: ecg_stem, channels: 8, kernel: 4, groups: 2, max_seconds: 2.0}", 0.4, "{type: signal}"),
    "standardised stem": (
        "{type: ecg_stem, channels: 8, kernel: 4, groups: 2, max_seconds: 2.0}",
        0.4,
        "{type: signal, normalize: true}",
    ),
}


@pytest.fixture(scope="module", params=ECGS)
def ecg_run(request, visits, tmp_path_factory):
    parts = {"ecg": ECGS[request.param]}
    return load_pretrained(write_run(tmp_path_factory.mktemp("ecg") / "run", visits, parts))


def test_recordings_are_shown_in_millivolts_and_missing_leads_not_at_all(ecg_run, visits):
    samples = [sample for part in reconstruct(ecg_run) for sample in part.samples]
    assert len(samples) == 3
    missing = 0
    for sample in samples:
        seen, measured = sample.seen["ecg"], raw(visits, sample.key, "ecg")
        assert (seen.leads, seen.sample_rate, seen.unit) == (LEADS, RATE, "mV")
        whole = len(measured) // ecg_run.modalities["ecg"].stride * ecg_run.modalities["ecg"].stride
        assert np.allclose(seen.original, measured[:whole], atol=1e-5, equal_nan=True)
        assert seen.hidden.any()
        assert (np.isfinite(seen.predicted) == seen.hidden).all()
        missing += np.isnan(seen.original).all(axis=0).sum()
    assert missing > 0


def test_a_perfect_prediction_of_a_signal_lies_on_the_original(ecg_run):
    ecg, target = ecg_run.modalities["ecg"], ecg_run.model.objective.part("ecg").target
    value = heart(200, np.random.default_rng(5))
    value[:, 0] = np.nan
    content = ecg.collate([[ecg.read(value, 0, ecg.limit, None)]], None)
    truth = target(StreamContext(content, torch.zeros(1, dtype=torch.int64), 0.0))[0]
    hidden = torch.arange(len(truth)) % 3 == 1
    places = hidden.nonzero().squeeze(1)
    prediction = Prediction(hidden.unsqueeze(0), truth[hidden].nan_to_num(7.0), torch.zeros_like(places), places)
    seen = view_of(ecg, target).view(content, prediction, 0)
    assert seen.hidden[:, 0].sum() == 0
    assert 0.2 < seen.hidden[:, 1:].mean() < 0.5
    assert np.allclose(seen.predicted[seen.hidden], seen.original[seen.hidden], atol=1e-5)
    assert np.isnan(seen.predicted[~seen.hidden]).all()


def test_leads_that_training_left_out_are_shaded_too(visits, tmp_path):
    parts = {"ecg": ("{type: ecg_stem, channels: 8, groups: 2, lead_dropout: 0.9, max_seconds: 2.0}", 0.3, "signal")}
    run = load_pretrained(write_run(tmp_path / "run", visits, parts))
    ecg, target = run.modalities["ecg"], run.model.objective.part("ecg").target
    content = ecg.collate([[ecg.read(heart(200, np.random.default_rng(5)), 0, ecg.limit, 1)]], None)
    nothing = Prediction(
        torch.zeros_like(content.valid), torch.zeros(0, target.size), *torch.zeros(2, 0, dtype=torch.int64)
    )
    seen = view_of(ecg, target).view(content, nothing, 0)
    assert sorted(seen.hidden.all(axis=0)) == sorted(seen.hidden.any(axis=0)) == [False, True, True]


def test_recordings_standardised_by_themselves_have_no_millivolts(visits, tmp_path):
    parts = {"ecg": ("{type: ecg, patch: 20, max_seconds: 2.0, normalize: strip}", 0.4, "signal")}
    run = load_pretrained(write_run(tmp_path / "run", visits, parts))
    seen = next(reconstruct(run)).samples[0].seen["ecg"]
    assert seen.unit == "standard deviations"
    measured = seen.original[:, ~np.isnan(seen.original).any(axis=0)]
    assert measured.std(axis=0, ddof=1) == pytest.approx([1.0] * measured.shape[1], abs=1e-3)
    assert "no millivolts to show" in write_report(run.run).read_text()


def test_the_paper_has_the_recording_in_black_and_the_prediction_in_red():
    time = np.arange(200) / 100
    original = np.stack([np.sin(6 * time), np.full(200, np.nan)], axis=1)
    hidden = np.zeros((200, 2), dtype=bool)
    hidden[50:100, 0] = True
    recording = Recording(("I", "II"), 100.0, "mV", original, hidden, np.where(hidden, -original, np.nan))
    png = drawn(lambda figure: draw_recording(recording, figure), recording.height, dpi=100)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 1:].max(axis=2) < 60)
    black = pixels.max(axis=2) < 60
    across = np.flatnonzero(red.any(axis=0)) / pixels.shape[1]
    assert 0.28 < across.min() < 0.34
    assert 0.48 < across.max() < 0.55
    assert black[: len(black) // 2].sum() > 300
    pink = (pixels[..., 0] > 235) & (pixels[..., 1] < 225) & (pixels[..., 1] > 150)
    assert pink.mean() > 0.02


def test_a_long_recording_of_many_leads_stays_on_one_sheet():
    numbers = np.random.default_rng(0).normal(size=(3000, 12)) * 50
    recording = Recording(("V1",) * 12, 100.0, "mV", numbers, np.zeros_like(numbers, dtype=bool), numbers * np.nan)
    assert recording.height < 12
    assert len(drawn(lambda figure: draw_recording(recording, figure), recording.height, dpi=60)) < 400_000


SPEECHES = {
    "patches": ("{type: speech_mel, mels: 8, kernel: 2, stride: 2, max_seconds: 1.0}", 0.5, "log_mel"),
    "standardised patches": (
        "{type: speech_mel, mels: 8, kernel: 2, stride: 2, max_seconds: 1.0}",
        0.5,
        "{type: log_mel, normalize: true}",
    ),
    "overlapping patches": ("{type: speech_mel, mels: 8, kernel: 4, stride: 2, max_seconds: 1.0}", 0.5, "log_mel"),
    "waveform": (
        "{type: speech, stem: [[10, 5], [8, 8], [4, 4]], channels: 8, kernel: 4, groups: 2, max_seconds: 1.0}",
        0.5,
        "{type: log_mel, mels: 8, normalize: true}",
    ),
}


@pytest.fixture(scope="module", params=SPEECHES)
def speech_run(request, visits, tmp_path_factory):
    parts = {"speech": SPEECHES[request.param]}
    return load_pretrained(write_run(tmp_path_factory.mktemp("speech") / "run", visits, parts))


def one_sound(run, hide):
    """A row of two rows of different length, hidden at `hide`, and perfectly predicted."""
    speech, target = run.modalities["speech"], run.model.objective.part("speech").target
    sounds = [visit(number)["speech"] for number in (2, 0)]
    content = speech.collate([[speech.read(sound, 0, speech.limit, None)] for sound in sounds], None)
    truth = target(StreamContext(content, torch.zeros(2, dtype=torch.int64), 0.0))
    hidden = torch.zeros_like(content.valid)
    hidden[1, hide] = True
    row, places = hidden.nonzero(as_tuple=True)
    return view_of(speech, target), content, Prediction(hidden, truth[hidden], row, places)


def test_a_perfect_prediction_of_a_spectrogram_is_the_original(speech_run):
    view, content, prediction = one_sound(speech_run, slice(3, 7))
    assert not content.valid.all()
    seen = view.view(content, prediction, 1)
    assert 0 < seen.hidden.sum() < len(seen.hidden) == len(seen.original)
    assert np.allclose(seen.predicted, seen.original, atol=1e-4)
    seconds = len(seen.original) * seen.seconds
    assert seconds == pytest.approx(0.8, abs=0.04)
    if isinstance(speech_run.modalities["speech"], SpeechMel):
        stride = speech_run.modalities["speech"].stride
        assert np.flatnonzero(seen.hidden).max() < 7 * stride
        assert np.flatnonzero(seen.hidden).min() >= 3 * stride


def seen_whole(run, name, number):
    """A sample of which nothing is hidden."""
    modality, target = run.modalities[name], run.model.objective.part(name).target
    content = modality.collate([[modality.read(visit(number)[name], 0, modality.limit, None)]], None)
    nothing = Prediction(torch.zeros_like(content.valid), torch.zeros(0, target.size), *torch.zeros(2, 0).long())
    return view_of(modality, target).view(content, nothing, 0)


def test_a_recording_of_which_nothing_is_hidden_is_shown_as_it_is(ecg_run):
    seen = seen_whole(ecg_run, "ecg", 0)
    assert not seen.hidden.any()
    assert np.isfinite(seen.original).all()


def test_speech_of_which_nothing_is_hidden_is_shown_as_it_is(speech_run):
    seen = seen_whole(speech_run, "speech", 2)
    assert not seen.hidden.any()
    assert (seen.predicted == seen.original).all()


def test_a_tone_stands_in_its_band(speech_run):
    if not isinstance(speech_run.modalities["speech"], SpeechMel):
        return
    speech = speech_run.modalities["speech"]
    plain = dataclasses.replace(speech, normalize="none")
    time = np.arange(6400) / 8000
    sound = (np.sin(2 * np.pi * 1000 * time).astype(np.float32), 8000)
    content = plain.collate([[plain.read(sound, 0, plain.limit, None)]], None)
    nothing = Prediction(torch.zeros_like(content.valid), torch.zeros(0, plain.kernel * 8), *torch.zeros(2, 0).long())
    seen = view_of(plain, speech_run.model.objective.part("speech").target).view(content, nothing, 0)
    assert len(set(seen.original.argmax(axis=1))) == 1
    assert not seen.hidden.any()


def test_what_is_hidden_is_not_taken_from_the_original(speech_run):
    view, content, prediction = one_sound(speech_run, slice(3, 7))
    seen = view.view(content, prediction._replace(prediction=prediction.prediction + 5), 1)
    assert (np.abs(seen.predicted - seen.original)[seen.hidden] > 0.5).all()
    assert (seen.predicted == seen.original)[~seen.hidden].all()


def test_spectrograms_of_the_page_are_drawn_three_times_over(speech_run):
    seen = next(reconstruct(speech_run)).samples
    assert len(seen) == 4
    view = view_of(speech_run.modalities["speech"], speech_run.model.objective.part("speech").target)
    page = view.html(seen[0].seen["speech"], "speech")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(page.split("base64,")[1].split('"')[0]))).convert("RGB"))
    grey = (pixels == 0x9A).all(axis=2)
    thirds = [part.mean() for part in np.array_split(grey, 3, axis=1)]
    assert thirds[1] > 0.1 > 0.01 > max(thirds[0], thirds[2])


def test_all_streams_of_a_sample_stand_on_one_page_and_in_one_figure(visits, tmp_path):
    run = write_run(tmp_path / "run", visits)
    text = write_report(run).read_text()
    assert "No samples can be shown" not in text
    assert "ecg + labs + speech, validation split" in text
    assert text.count('class="strip"') == 2 * 4
    assert len(text) < 3_000_000
    manifest = load_manifest(visits)
    file = show(run, visits, str(manifest.column("key")[2]), out=tmp_path / "one.png")
    with Image.open(file) as image:
        assert image.height > 700


def test_another_order_of_leads_is_refused(visits, tmp_path):
    run = write_run(tmp_path / "run", visits, {"ecg": STREAMS["ecg"]})
    other = write_visits(tmp_path / "other", count=4, leads=("V1", "I", "II"))
    with pytest.raises(DataError, match="field 'ecg' was built with other leads than the run was trained on"):
        show(run, other, "000000000", out=tmp_path / "one.png")
