"""Missing laboratory cells are filled in by a run, and columns are added to one."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmpt import randomness
from mmpt.build import build_modalities, build_model, build_sources, facts_of
from mmpt.config import parse_settings
from mmpt.data.builders.labs import build_labs
from mmpt.data.source import Source
from mmpt.downstream.columns import with_columns
from mmpt.downstream.encoder import load
from mmpt.downstream.imputation import impute
from mmpt.downstream.pretrained import load_pretrained
from mmpt.errors import DataError
from mmpt.model import MaskedModel
from mmpt.objectives.corruption.replace import ReplaceCorruption
from mmpt.settings import Recipe
from mmpt.tokens import Batch, Content
from mmpt.training import checkpoint
from mmpt.training.run import prepare

NUMERIC = ("sodium", "urea", "glucose", "albumin", "lactate", "calcium")
NAMES = (*NUMERIC, "sex")

RECIPE = """
streams:
  labs: {type: labs}
trunk: {type: transformer, width: 32, depth: 2, heads: 2}
objective:
  type: masked_prediction
  streams:
    labs:
      masking: {ratio: 0.5}
      corruption: drop
      predictor: {type: cross_decoder, width: 32, depth: 1, heads: 2}
      target: cells
data:
  sources:
    patients: {shards: SHARDS, streams: [labs]}
  batch_size: 4
  workers: 0
training:
  steps: 150
  optimizer: {learning_rate: 5e-3}
"""


def patients(count=2500):
    """Six numbers of two causes, and a sex that follows one of them; about 30 % of the cells are missing."""
    generator = np.random.default_rng(0)
    causes = generator.normal(size=(count, 2))
    loadings = np.array([[1, 0], [0.9, 0.1], [-1, 0.2], [0, 1], [0.2, -0.9], [0.5, 0.5]])
    numbers = causes @ loadings.T + 0.2 * generator.normal(size=(count, 6))
    numbers = numbers * [4, 6, 35, 0.5, 0.8, 0.5] + [138, 15, 110, 4, 1.4, 9.4]
    sex = np.where(causes[:, 0] + 0.2 * generator.normal(size=count) > 0, "male", "female")
    missing = generator.random((count, 7)) < 0.3
    rows = zip(numbers, sex, missing, strict=True)
    return [{name: None if gone[n] else [*own, kind][n] for n, name in enumerate(NAMES)} for own, kind, gone in rows]


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("labs")
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        for row in patients():
            writer.writerow(["" if value is None else value for value in row.values()])
    build_labs(folder / "table.csv", folder / "shards")
    return folder / "shards"


def learn(model: MaskedModel, source: Source, steps: int, size: int = 128, rate: float = 5e-3) -> None:
    """AdamW over random rows, all of which are read once."""
    rows = source.rows(list(range(source.plan.num_bins)))
    every, row = rows.streams["labs"], randomness.permutation(steps * size, "order") % len(rows.uid)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step, some in enumerate(row.view(steps, size)):
        content = Content(*(tensor[some] for tensor in every[:5]))
        batch = Batch({"labs": content}, rows.uid[some], randomness.fold(some, step), "patients", step)
        hidden = model.hide(batch, step / steps)
        loss = model(batch, hidden, step / steps).losses["labs"].total / hidden["labs"].denominator
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 30, 1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train(run: Path, shards: Path, *overrides: str) -> Path:
    """A run folder as `mmpt pretrain` leaves it, by a plain loop."""
    recipe = parse_settings(RECIPE.replace("SHARDS", str(shards)), list(overrides), Recipe)
    facts = facts_of(recipe)
    modalities = build_modalities(recipe.streams, facts)
    (source,) = sources = build_sources(recipe, modalities)
    prepare(run, recipe, facts, sources)
    model = build_model(recipe, modalities)
    learn(model, source, recipe.training.steps)
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    checkpoint.commit(run / "checkpoints", checkpoint.Saved(weights, {}, {"step": recipe.training.steps}))
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tables) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "trained", tables)


@pytest.fixture(scope="module")
def pretrained(trained):
    return load_pretrained(trained)


@pytest.fixture(scope="module")
def benchmark():
    file = Path(__file__).parents[2] / "benchmarks" / "imputation.py"
    spec = importlib.util.spec_from_file_location("benchmark_imputation", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def as_array(rows):
    """The model's own order of columns: that of the table."""
    number = {None: np.nan, "female": 0.0, "male": 1.0}
    return np.array([[number.get(value, value) for value in row.values()] for row in rows], dtype=np.float64)


# ---- imputation


def test_hidden_cells_are_filled_in_far_better_than_by_the_column_mean(trained, tables, benchmark):
    scores, count = benchmark.compare(trained, tables, share=0.3, seed=0, rounds=5)
    assert count > 200
    assert scores["mmpt"].rmse < 0.75 * scores["column mean"].rmse
    assert 0.9 < scores["column mean"].rmse < 1.1
    assert scores["mmpt"].right > 0.7 > scores["column mean"].right
    assert scores["IterativeImputer"].rmse < scores["column mean"].rmse


def test_the_benchmark_prints_every_side(trained, tables, benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["imputation.py", str(trained), str(tables), "--rounds", "1"])
    benchmark.main()
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("mmpt", "column mean", "IterativeImputer", "RMSE"))


def test_observed_cells_stay_and_missing_ones_are_filled_in_their_own_units(pretrained):
    rows = patients(60)
    given = [dict(row) for row in rows]
    filled = impute(pretrained, rows)
    assert rows == given
    measured = dict(zip(NAMES, pretrained.modalities["labs"].facts.statistics["columns"], strict=True))
    for row, full in zip(rows, filled, strict=True):
        assert list(full) == list(NAMES)
        assert {name: full[name] for name, value in row.items() if value is not None} == {
            name: value for name, value in row.items() if value is not None
        }
        assert full["sex"] in ("female", "male")
        for name in NUMERIC:
            if row[name] is None:
                assert measured[name]["low"] <= full[name] <= measured[name]["high"]


def test_lists_frames_and_arrays_are_filled_alike_and_come_back_as_what_they_were(pretrained):
    pandas = pytest.importorskip("pandas")
    rows = patients(40)
    filled = impute(pretrained, rows)
    table = as_array(rows)
    array = impute(pretrained, table)
    assert np.isnan(table).any()
    assert array.dtype == np.float64
    assert np.array_equal(array[~np.isnan(table)], table[~np.isnan(table)])
    np.testing.assert_allclose(array, as_array(filled), rtol=1e-6)
    assert impute(pretrained, table.astype(np.float32)).dtype == np.float32
    frame = pandas.DataFrame(rows, index=[f"patient {n // 2}" for n in range(40)])[list(reversed(NAMES))]
    before = frame.copy()
    completed = impute(pretrained, frame)
    pandas.testing.assert_frame_equal(frame, before)
    assert list(completed.columns) == list(frame.columns)
    assert list(completed.index) == list(frame.index)
    assert list(completed["sex"]) == [row["sex"] for row in filled]
    for name in NUMERIC:
        np.testing.assert_allclose(completed[name], [row[name] for row in filled], rtol=1e-6)


def test_a_cell_that_a_dict_does_not_have_is_missing(pretrained):
    short, long = ({"urea": 20.0, "sex": "male"}, {**dict.fromkeys(NAMES), "urea": 20.0, "sex": "male"})
    assert impute(pretrained, [short]) == impute(pretrained, [long])
    assert list(impute(pretrained, [short])[0]) == ["urea", "sex", "sodium", "glucose", "albumin", "lactate", "calcium"]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_row_is_filled_alike_alone_and_among_others(pretrained, batch_size):
    table = as_array(patients(20))
    np.testing.assert_allclose(
        impute(pretrained, table, batch_size=batch_size), impute(pretrained, table), rtol=1e-5, atol=1e-5
    )


def test_rows_without_a_cell_and_without_a_gap_and_no_rows_at_all_are_fine(pretrained):
    complete = next(row for row in patients(200) if None not in row.values())
    empty, same = impute(pretrained, [{}, complete])
    assert same == complete
    measured = pretrained.modalities["labs"].facts.statistics["columns"]
    for name, own in zip(NUMERIC, measured, strict=False):
        assert abs(empty[name] - own["mean"]) < own["std"]  # what one expects of anyone
    assert impute(pretrained, []) == []
    assert impute(pretrained, [complete]) == [complete]
    assert impute(pretrained, np.empty((0, 7))).shape == (0, 7)


def test_what_a_corruption_keeps_of_hidden_cells_in_training_is_not_kept_of_missing_ones(tmp_path, tables):
    run = train(
        tmp_path / "kept", tables, "training.steps=3",
        "objective.streams.labs.corruption={type: replace, keep: 0.9, random: 0.1}",
    )  # fmt: skip
    pretrained, table = load_pretrained(run), as_array(patients(30))
    corruption = pretrained.model.objective.part("labs").corruption
    assert isinstance(corruption, ReplaceCorruption)
    filled = impute(pretrained, table)
    assert (corruption.keep, corruption.random) == (0.9, 0.1)
    corruption.keep = corruption.random = 0.0
    assert np.array_equal(filled, impute(pretrained, table))


def rows_with(**cells):
    return [{"urea": 15.0}, cells]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (rows_with(ureum=3.0), "row 1: no column 'ureum'; did you mean 'urea'"),
        (rows_with(urea="high"), "row 1: column 'urea': expected a number, got 'high'"),
        (rows_with(urea=float("inf")), "row 1: column 'urea': expected a finite number"),
        (rows_with(sex="m"), "row 1: column 'sex': expected one of female, male"),
        (np.array([[1.0] * 6 + [np.nan], [np.nan, np.inf, 1, 1, 1, 1, 1]]), "row 1: column 'urea': .*got inf"),
        (np.array([[np.nan] * 6 + [2.0]]), "row 0: column 'sex': expected the number of a category, 0 to 1, got 2"),
        (np.zeros((2, 6)), r"a float array of rows by 7 columns.*got float64 of shape \(2, 6\)"),
        (np.zeros((2, 7), dtype=np.int64), "a float array of rows by 7 columns.*got int64"),
        ({"urea": 15.0}, "expected a list of dicts, a pandas DataFrame or a float array with NaN, got dict"),
        ([3.0], "expected a list of dicts, a pandas DataFrame or a float array with NaN, got list"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_the_row(pretrained, table, message):
    with pytest.raises(DataError, match=message):
        impute(pretrained, table)


def test_runs_that_cannot_impute_are_refused(pretrained, run):
    with pytest.raises(DataError, match="one stream of laboratory tables, got 0 among text, image"):
        impute(load_pretrained(run), [])
    with pytest.raises(DataError, match="there is no checkpoint yet; train first"):
        impute(pretrained._replace(step=None), [])
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        impute(pretrained, [], batch_size=0)


def test_a_loaded_run_imputes_and_one_that_is_not_the_runs_own_refuses(trained, pretrained):
    rows = patients(20)
    encoder = load(trained)
    assert encoder.impute(rows) == impute(pretrained, rows)
    for other in (load(trained, untrained=True), with_columns(encoder, NEW, MEASURED)):
        with pytest.raises(DataError, match="imputation needs a trained run as it was loaded"):
            other.impute(rows)


# ---- more columns

NEW = [
    {"name": "ferritin", "unit": "ng/ml", "kind": "numeric"},
    {"name": "rhesus", "unit": None, "kind": "categorical", "categories": ["negative", "positive"]},
]
MEASURED = [
    {"count": 9, "mean": 100.0, "std": 50.0, "low": 0.0, "high": 300.0, "quantiles": list(np.linspace(0, 300, 17))},
    {"count": 9, "counts": [4, 5]},
]


@pytest.mark.parametrize("values", ["linear", "mlp", "quantile"])
def test_new_columns_leave_what_is_made_of_the_old_ones_bit_identical(tmp_path, tables, values):
    encoder = load(train(tmp_path / "run", tables, "training.steps=2", f"streams.labs.values={values}"))
    wider = with_columns(encoder, NEW, MEASURED)
    samples = [{"labs": row} for row in patients(30)]
    before, after = encoder.encode(samples), wider.encode(samples)
    assert torch.equal(before.pooled, after.pooled)
    assert torch.equal(before.streams["labs"].latents, after.streams["labs"].latents)
    more = [{"labs": {**sample["labs"], "ferritin": 250.0, "rhesus": "positive"}} for sample in samples]
    assert (wider.encode(more).pooled != after.pooled).any(1).all()
    other = [{"labs": {**sample["labs"], "ferritin": 20.0, "rhesus": "positive"}} for sample in samples]
    assert (wider.encode(more).pooled != wider.encode(other).pooled).any(1).all()
    assert "ferritin [ng/ml]" in wider.encode(more[:1]).streams["labs"].names[0]
    with pytest.raises(DataError, match="no column 'ferritin'"):
        encoder.encode(more)  # the old one is as it was


def test_a_new_column_begins_as_the_mean_of_the_numeric_ones(trained):
    encoder = load(trained)
    wider = with_columns(encoder, NEW, MEASURED)
    old, new = (own.backbone.encoders["labs"] for own in (encoder, wider))
    torch.testing.assert_close(new.columns.weight[7], old.columns.weight[:6].mean(0))
    torch.testing.assert_close(new.columns.weight[8], old.columns.weight[:6].mean(0))
    assert torch.equal(new.columns.weight[:7], old.columns.weight)
    assert not any(parameter.requires_grad for parameter in wider.backbone.parameters())
    twice = with_columns(wider, [{**NEW[0], "name": "zinc"}], MEASURED[:1])
    assert twice.modalities["labs"].limit == 10


def test_columns_that_cannot_be_added_are_refused(trained, run):
    encoder = load(trained)
    with pytest.raises(DataError, match="column 'urea' is known to the encoder already"):
        with_columns(encoder, [{**NEW[0], "name": "urea"}], MEASURED[:1])
    with pytest.raises(DataError, match="new columns: the data set has 8 columns and statistics of 7"):
        with_columns(encoder, NEW[:1], [])
    with pytest.raises(DataError, match="one stream of laboratory tables, got 0"):
        with_columns(load(run), NEW, MEASURED)
