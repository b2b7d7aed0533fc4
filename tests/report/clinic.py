"""A data set with sound, ECG and laboratory values in each sample, written and measured by hand, and a run over it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmpt.build import build_modalities, build_model, build_sources, facts_of
from mmpt.config import parse_settings
from mmpt.data.manifest import save_manifest
from mmpt.data.schema import Field
from mmpt.data.writer import ShardWriter
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.run import prepare

LEADS, RATE, HEARTBEAT = ("I", "II", "V1"), 100, 1.2
COLUMNS = (
    {"name": "creatinine", "unit": "mg/dl", "kind": "numeric"},
    {"name": "sex", "unit": None, "kind": "categorical", "categories": ["female", "male"]},
    {"name": "sodium & <b>", "unit": "mmol/l", "kind": "numeric"},
    {"name": "site", "unit": None, "kind": "categorical", "categories": ["north", "south", "west"]},
    {"name": "glucose", "unit": "mg/dl", "kind": "numeric"},
)
CENTRE = {0: (1.0, 0.3), 2: (140.0, 4.0), 4: (95.0, 20.0)}
STREAMS = {
    "speech": ("{type: speech_mel, mels: 8, kernel: 2, stride: 2, max_seconds: 1.0}", 0.5, "log_mel"),
    "ecg": ("{type: ecg, patch: 20, max_seconds: 2.0}", 0.4, "signal"),
    "labs": ("{type: labs}", 0.5, "cells"),
}
RECIPE = """
streams: {MODALITIES}
trunk: {type: transformer, width: 16, depth: 1, heads: 2}
objective: {type: masked_prediction, streams: {PARTS}}
data: {sources: {visits: {shards: SHARDS, streams: [NAMES]}}, batch_size: 4}
training: {steps: 8, optimizer: {learning_rate: 1e-3}}
"""
PART = "{NAME}: {masking: {ratio: RATIO}, corruption: replace, predictor: {type: mlp}, target: TARGET}"


def visit(number: int) -> dict:
    """A tone over noise, three beating leads of which one may be missing, and the cells that were measured."""
    generator = np.random.default_rng(number)
    time = np.arange(6400 + 160 * (number % 3)) / 8000
    sound = 0.3 * np.sin(2 * np.pi * generator.uniform(300, 900) * time) + 0.01 * generator.normal(size=len(time))
    ecg = heart(200, generator)
    if number % 4 == 1:
        ecg[:, 1] = np.nan
    measured = np.flatnonzero(generator.uniform(size=len(COLUMNS)) < 0.8)
    values = [generator.normal(*CENTRE[c]) if c in CENTRE else generator.integers(2) for c in measured]
    cells = np.array([*zip(measured, values, strict=True)], dtype=np.float64).reshape(-1, 2)
    split = ("train", "validation")[number % 2]
    return {"speech": (sound.astype(np.float32), 8000), "ecg": ecg, "labs": cells, "__split__": split}


def heart(length: int, generator: np.random.Generator) -> np.ndarray:
    """Millivolts, T x C."""
    phase = np.arange(length) / RATE * HEARTBEAT % 1
    beat = np.exp(-(((phase - 0.3) / 0.03) ** 2)) + 0.2 * np.exp(-(((phase - 0.6) / 0.08) ** 2))
    return (beat[:, None] * np.array([0.6, 1.1, -0.8]) + 0.02 * generator.normal(size=(length, 3))).astype(np.float32)


def write_visits(folder: Path, count: int = 12, leads: Sequence[str] = LEADS) -> Path:
    """Shards with facts and statistics."""
    fields = {
        "speech": Field("speech", "audio", ("flac",), {"sample_rate": 8000}),
        "ecg": Field("ecg", "array", ("ecg.npy",), {"leads": list(leads), "sample_rate": RATE, "unit": "mV"}),
        "labs": Field("labs", "array", ("labs.npy",), {"columns": list(COLUMNS)}),
    }
    with ShardWriter(folder, fields) as writer:
        for number in range(count):
            writer.write(visit(number))
    statistics = {
        "ecg": {"mean": [0.1, 0.2, -0.1], "std": [0.2, 0.4, 0.3]},
        "labs": {"columns": [_measured(number) for number in range(len(COLUMNS))]},
    }
    assert writer.manifest
    save_manifest(dataclasses.replace(writer.manifest, statistics=statistics))
    return folder


def _measured(number: int) -> dict:
    if number not in CENTRE:
        return {"count": 9, "counts": [1] * len(COLUMNS[number]["categories"])}
    mean, std = CENTRE[number]
    quantiles = [mean + std * step for step in np.linspace(-3, 3, 17)]
    return {
        "count": 9,
        "mean": mean,
        "std": std,
        "low": mean - 3 * std,
        "high": mean + 3 * std,
        "quantiles": quantiles,
    }


def write_run(run: Path, shards: Path, streams: Mapping[str, tuple[str, float, str]] = STREAMS) -> Path:
    """Fresh weights after the last step, of one source with these streams: modality, ratio and target of each."""
    parts = [
        PART.replace("{NAME}", name).replace("RATIO", str(ratio)).replace("TARGET", target)
        for name, (_, ratio, target) in streams.items()
    ]
    modalities = ", ".join(f"{name}: {modality}" for name, (modality, _, _) in streams.items())
    text = RECIPE.replace("MODALITIES", modalities).replace("PARTS", ", ".join(parts))
    recipe = parse_settings(text.replace("NAMES", ", ".join(streams)).replace("SHARDS", str(shards)), [], Recipe)
    facts = facts_of(recipe)
    built = build_modalities(recipe.streams, facts)
    prepare(run, recipe, facts, build_sources(recipe, built))
    weights = {name: value.clone() for name, value in build_model(recipe, built).state_dict().items()}
    checkpoint.commit(run / "checkpoints", checkpoint.Saved(weights, {}, {"step": 8}))
    return run
