import numpy as np
import pytest

from mmpt.data.schema import Field
from mmpt.downstream.baselines import baseline_of

RATE = 8000


def tone(hertz: float, seconds: float = 0.5) -> tuple[np.ndarray, int]:
    return np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE).astype(np.float32), RATE


def test_cepstra_tell_tones_apart_and_take_any_length():
    baseline = baseline_of(Field("speech", "audio", ("flac",)))
    kept = [baseline.read(value) for value in (tone(300), tone(300, 0.9), tone(2500), tone(300, 0.001), None)]
    low, long, high, *_ = features = baseline.features(kept, np.arange(3))
    assert features.shape[0] == 5
    assert np.isfinite(features).all()
    assert np.linalg.norm(low - long) < 0.2 * np.linalg.norm(low - high)


def test_a_signal_is_resampled_and_a_lead_that_is_not_observed_is_zero():
    baseline = baseline_of(Field("ecg", "array", ("ecg.npy",), {"leads": ["I", "II"]}))
    line = np.stack([np.linspace(0, 1, 300), np.full(300, np.nan)], axis=1)
    features = baseline.features([baseline.read(line), baseline.read(None)], np.arange(2))
    assert features[0, :128] == pytest.approx(np.linspace(0, 1, 128), abs=1e-5)
    assert not features[0, 128:].any()
    assert not features[1].any()


def test_missing_values_get_the_mean_of_the_training_rows():
    numeric = {"name": "crea", "unit": "mg/dl", "kind": "numeric"}
    sex = {"name": "sex", "unit": None, "kind": "categorical", "categories": ["female", "male"]}
    baseline = baseline_of(Field("labs", "array", ("labs.npy",), {"columns": [numeric, sex]}))
    rows = [np.array([[0, 1.0], [1, 1.0]]), np.array([[0, 3.0]]), np.zeros((0, 2)), np.array([[0, 100.0]])]
    features = baseline.features([baseline.read(row) for row in rows], np.arange(3))
    assert features.tolist() == [[1, 0, 1], [3, 0, 0], [2, 0, 0], [100, 0, 0]]


def test_what_nobody_knows_how_to_describe_has_no_baseline():
    assert baseline_of(Field("x", "array", ("npy",))) is None
    assert baseline_of(Field("labels", "json", ("json",))) is None
