import datetime
import gzip
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpt.data.builders.labs import build_labs, summary_lines
from mmpt.data.manifest import load_manifest
from mmpt.data.split import split_of
from mmpt.data.tokenizer import read_tokenizer
from mmpt.errors import DataError
from tests.data.material import contents, members, prose, write_table

SHARES = (0.8, 0.1, 0.1)
SMALL: dict[str, Any] = {"vocabulary": 300, "samples_per_shard": 16}


def wide_rows(count=60):
    """Two rows a patient; some creatinine, sodium and sex missing."""
    generator = np.random.default_rng(0)
    return [
        {
            "patient": f"p{i // 2}",
            "creatinine": "" if i % 5 == 0 else f"{generator.gamma(2):.3f}",
            "sodium": "NA" if i % 7 == 0 else str(130 + i % 17),
            "sex": ("female", "male", "NaN")[i % 3],
            "note": prose(i, 6) if i % 4 else "",
            "label": "ab"[i % 2],
            "ward": f"w{i % 3}",
        }
        for i in range(count)
    ]


def build(tmp_path, rows, name="labs.csv", out="out", **settings):
    return build_labs(write_table(tmp_path / name, rows), tmp_path / out, **SMALL | settings)


def cells(folder):
    found = {name.split(".")[0]: data for name, data in members(folder).items() if name.endswith(".labs.npy")}
    return {int(key): np.load(io.BytesIO(data), allow_pickle=False) for key, data in found.items()}


def columns(manifest):
    facts = manifest.fields["labs"].facts["columns"]
    return {f["name"]: f | s for f, s in zip(facts, manifest.statistics["labs"]["columns"], strict=True)}


def groups_of(split, count=200):
    return [name for name in (f"p{i}" for i in range(count)) if split_of(name, SHARES) == split]


def long_rows(*cells):
    """(patient, item, value, unit, time) tuples, beside 20 training patients that have both items."""
    names = ("patient", "item", "value", "unit", "time")
    there = [
        (patient, item, str(number), "mg/dl", str(number))
        for number, patient in enumerate(groups_of("train")[:20])
        for item in ("glucose", "urea")
    ]
    return [dict(zip(names, row, strict=True)) for row in [*cells, *there]]


def test_a_wide_row_becomes_its_observed_cells_and_what_stands_beside_them(tmp_path):
    rows = wide_rows()
    manifest = build(tmp_path, rows, labels=("ward",), units={"creatinine": "mg/dl"})
    assert not manifest.rejected
    assert manifest.fields["labs"].kind == "array"
    assert manifest.fields["labs"].members == ("labs.npy",)
    assert manifest.fields["labs"].facts == {
        "columns": [
            {"name": "creatinine", "unit": "mg/dl", "kind": "numeric"},
            {"name": "sodium", "unit": None, "kind": "numeric"},
            {"name": "sex", "unit": None, "kind": "categorical", "categories": ["female", "male"]},
        ]
    }
    found, values = members(tmp_path / "out"), cells(tmp_path / "out")
    for number, row in enumerate(rows):
        expected = [(c, float(row[n])) for c, n in enumerate(("creatinine", "sodium")) if row[n] not in ("", "NA")]
        if row["sex"] != "NaN":
            expected.append((2, float(row["sex"] == "male")))
        assert values[number].dtype == np.float64
        assert values[number].tolist() == [list(cell) for cell in expected]
        assert manifest.lengths("labs")[number] == len(expected)
        labels = {name: row[name] for name in ("patient", "label", "ward")}
        assert json.loads(found[f"{number:09d}.json"]) == labels
        assert found.get(f"{number:09d}.txt", b"").decode() == row["note"]
        assert manifest.column("group")[number] == row["patient"]
        assert manifest.column("split")[number] == split_of(row["patient"], SHARES)
    read_tokenizer(tmp_path / "out" / manifest.fields["text"].facts["tokenizer"])
    assert sum(manifest.statistics["text"]["token_counts"]) > 0


def test_statistics_are_those_of_the_training_splits_observed_cells(tmp_path):
    rows = wide_rows(200)
    manifest = build(tmp_path, rows, clip=(0.05, 0.9))
    train = [row for row in rows if split_of(row["patient"], SHARES) == "train"]
    observed = np.array([float(row["creatinine"]) for row in train if row["creatinine"]])
    low, high = np.quantile(observed, (0.05, 0.9))
    clipped = observed.clip(low, high)
    own = columns(manifest)["creatinine"]
    assert 0 < len(observed) < len(train) < 200
    assert own["count"] == len(observed)
    assert own["observed"] == len(observed) / len(train)
    assert (own["low"], own["high"]) == (low, high)
    assert np.allclose([own["mean"], own["std"]], [clipped.mean(), clipped.std()], rtol=1e-12)
    assert len(own["quantiles"]) == 17
    assert np.allclose(own["quantiles"], np.quantile(clipped, np.arange(17) / 16), rtol=1e-12)
    assert (own["quantiles"][0], own["quantiles"][-1]) == (low, high)
    sexes = [row["sex"] for row in train]
    assert columns(manifest)["sex"]["counts"] == [sexes.count("female"), sexes.count("male")]
    assert columns(manifest)["sex"]["count"] == sexes.count("female") + sexes.count("male")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_changed_value_outside_the_training_split_changes_no_statistic(tmp_path, split):
    rows = wide_rows(200)
    first = build(tmp_path, rows, out="a")
    number = next(i for i, row in enumerate(rows) if split_of(row["patient"], SHARES) == split)
    rows[number] |= {"creatinine": "1e6", "sodium": "-5", "sex": "female"}
    second = build(tmp_path, rows, out="b")
    for name, own in columns(first).items():
        assert columns(second)[name] == own
    assert 1e6 in cells(tmp_path / "b")[number]


def test_a_changed_value_inside_the_training_split_changes_the_statistics(tmp_path):
    rows = wide_rows(200)
    first = build(tmp_path, rows, out="a")
    number = next(i for i, row in enumerate(rows) if i % 5 and split_of(row["patient"], SHARES) == "train")
    rows[number]["creatinine"] = "1e6"
    second = build(tmp_path, rows, out="b")
    assert columns(second)["creatinine"]["mean"] > columns(first)["creatinine"]["mean"]
    assert columns(second)["sodium"] == columns(first)["sodium"]


def test_the_order_of_the_rows_changes_no_statistic(tmp_path):
    rows = wide_rows(200)
    first, second = build(tmp_path, rows, out="a"), build(tmp_path, rows[::-1], out="b")
    assert columns(first) == columns(second)


def test_a_column_of_one_value_standardises_to_zero(tmp_path):
    rows = [row | {"sodium": "140"} for row in wide_rows()]
    own = columns(build(tmp_path, rows))["sodium"]
    assert (own["mean"], own["std"], own["low"], own["high"]) == (140, 1, 140, 140)


def test_the_notes_tokenizer_learns_from_the_training_split_alone(tmp_path):
    held_out = groups_of("test")[0]
    rows = [*wide_rows(), {"patient": held_out, "creatinine": "1", "note": "zyzzyva " * 50}]
    manifest = build(tmp_path, rows)
    assert (manifest.column("group") == held_out).any()
    assert "zy" not in (tmp_path / "out" / "tokenizer" / "tokenizer.json").read_text()


def test_processes_do_not_change_a_byte(tmp_path):
    rows = wide_rows()
    rows[3]["creatinine"] = "pending"
    rows[8] |= dict.fromkeys(("creatinine", "sodium", "sex", "note"), "")
    for processes in (1, 2):
        build(tmp_path, rows, out=str(processes), processes=processes)
    assert len(list((tmp_path / "1").glob("*.tar"))) == 4
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_build_goes_on_after_a_kill_and_gives_the_same_bytes(tmp_path):
    rows = wide_rows()
    manifest = build(tmp_path, rows, out="whole")
    table = tmp_path / "labs.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmpt.data.builders.steps.finish", _killed)
        with pytest.raises(KeyboardInterrupt):
            build_labs(table, tmp_path / "killed", **SMALL)
    (tmp_path / "killed" / "shard-000001.tar").unlink()
    again = build_labs(table, tmp_path / "killed", **SMALL)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert again.fingerprint() == manifest.fingerprint()


def _killed(*_):
    raise KeyboardInterrupt


def test_a_table_that_changed_is_noticed_on_a_half_built_folder(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmpt.data.builders.steps.finish", _killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, wide_rows())
    with pytest.raises(DataError, match="half-built with other inputs"):
        build(tmp_path, [*wide_rows(), {"patient": "new", "creatinine": "1"}])


def test_every_file_form_gives_the_same_samples(tmp_path):
    rows = wide_rows()
    table = write_table(tmp_path / "labs.csv", rows)
    (tmp_path / "labs.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + table.read_bytes()))
    (tmp_path / "labs.tsv").write_text(table.read_text().replace(",", "\t"))
    typed = {name: [row[name] for row in rows] for name in rows[0]}
    numbers = [None if value == "" else float(value) for value in typed["creatinine"]]
    missing = [np.nan if value == "NA" else float(value) for value in typed["sodium"]]
    typed |= {"creatinine": numbers, "sodium": pa.array(missing, pa.float64(), from_pandas=False)}
    pq.write_table(pa.table(typed), tmp_path / "labs.parquet")
    for name in ("labs.csv", "labs.csv.gz", "labs.tsv", "labs.parquet"):
        build_labs(tmp_path / name, tmp_path / f"out-{name}", **SMALL)
    first = members(tmp_path / "out-labs.csv")
    assert len(first) > 120
    for name in ("labs.csv.gz", "labs.tsv", "labs.parquet"):
        assert members(tmp_path / f"out-{name}") == first, name


def test_without_a_patient_every_row_is_a_group(tmp_path):
    manifest = build(tmp_path, [{"creatinine": str(i)} for i in range(20)])
    assert manifest.column("group").tolist() == [f"row {i}" for i in range(1, 21)]
    assert set(manifest.fields) == {"labs"}


def test_a_group_column_comes_before_the_patient(tmp_path):
    rows = [row | {"group": f"family {i // 6}"} for i, row in enumerate(wide_rows())]
    manifest = build(tmp_path, rows)
    assert manifest.column("group").tolist() == [row["group"] for row in rows]
    assert [f["name"] for f in manifest.fields["labs"].facts["columns"]] == ["creatinine", "sodium", "sex", "ward"]


def test_a_sample_without_a_value_is_kept_for_its_note_alone(tmp_path):
    rows = wide_rows(20)
    empty = dict.fromkeys(("creatinine", "sodium", "sex"), "")
    rows[4] |= {**empty, "note": "nothing was measured"}
    rows[6] |= {**empty, "note": "null"}
    manifest = build(tmp_path, rows, columns=("creatinine", "sodium", "sex"))
    assert cells(tmp_path / "out")[4].shape == (0, 2)
    assert manifest.lengths("labs")[4] == 0
    assert "000000006" not in manifest.column("key")
    assert manifest.rejected == (
        {"input": f"{tmp_path / 'labs.csv'}: row 7", "reason": "no lab value and no note in this row"},
    )


def test_chosen_columns_come_in_their_order_and_the_rest_is_no_lab(tmp_path):
    manifest = build(tmp_path, wide_rows(), columns=("sodium", "creatinine"))
    assert list(columns(manifest)) == ["sodium", "creatinine"]


def test_declared_categories_may_be_numbers_and_are_in_their_order(tmp_path):
    rows = [row | {"stage": str((10, 2, 1)[i % 3])} for i, row in enumerate(wide_rows())]
    manifest = build(tmp_path, rows, columns=("stage",), categorical=("stage",))
    assert columns(manifest)["stage"]["categories"] == ["1", "2", "10"]
    assert [cells(tmp_path / "out")[i].tolist() for i in range(3)] == [[[0, 2]], [[0, 1]], [[0, 0]]]


def test_a_category_that_training_never_saw_is_left_out(tmp_path):
    rows = wide_rows(200)
    number = next(i for i, row in enumerate(rows) if split_of(row["patient"], SHARES) == "test")
    rows[number]["sex"] = "unknown"
    manifest = build(tmp_path, rows)
    assert columns(manifest)["sex"]["categories"] == ["female", "male"]
    assert manifest.rejected == (
        {
            "input": f"{tmp_path / 'labs.csv'}: row {number + 1}, sex",
            "reason": "category 'unknown' does not occur in the training split",
        },
    )
    assert 2 not in cells(tmp_path / "out")[number][:, 0]


@pytest.mark.parametrize("form", ["csv", "json", "yaml"])
def test_units_come_from_a_file(tmp_path, form):
    files = {
        "csv": "column,unit\ncreatinine,mg/dl\nsex,\nward,\n",
        "json": json.dumps({"creatinine": "mg/dl", "sex": None}),
        "yaml": "creatinine: mg/dl\nsex:\n",
    }
    (tmp_path / f"units.{form}").write_text(files[form])
    manifest = build(tmp_path, wide_rows(), units=tmp_path / f"units.{form}")
    assert {name: own["unit"] for name, own in columns(manifest).items()} == {
        "creatinine": "mg/dl",
        "sodium": None,
        "sex": None,
        "ward": None,
    }


@pytest.mark.parametrize(("aggregate", "expected"), [("first", 5.0), ("mean", 4.0), ("last", 1.0)])
@pytest.mark.parametrize("dates", [False, True])
def test_several_values_of_a_sample_become_one_in_the_order_of_time(tmp_path, aggregate, expected, dates):
    when = {n: f"2024-01-{n:02d}T10:00" if dates else str(n) for n in range(1, 21)}
    rows = long_rows(*(("x", "glucose", value, "mg/dl", when[time]) for value, time in (("6", 2), ("1", 10), ("5", 1))))
    rows = [row | {"time": when[1]} if row["patient"] != "x" else row for row in rows]
    manifest = build(tmp_path, rows, aggregate=aggregate)
    assert list(columns(manifest)) == ["glucose", "urea"]
    assert not manifest.rejected
    assert len(manifest) == 21
    assert cells(tmp_path / "out")[0].tolist() == [[0, expected]]
    assert [len(own) for own in cells(tmp_path / "out").values()] == [1] + [2] * 20


def test_without_time_the_tables_order_counts(tmp_path):
    rows = [
        {name: row[name] for name in ("patient", "item", "value")}
        for row in long_rows(("x", "urea", "7", "", ""), ("x", "urea", "3", "", ""))
    ]
    build(tmp_path, rows)
    assert cells(tmp_path / "out")[0].tolist() == [[1, 3]]


def test_visits_of_a_patient_are_samples_of_one_group(tmp_path):
    rows = [row | {"visit": visit} for row in long_rows() for visit in ("1", "2")]
    manifest = build(tmp_path, rows)
    assert len(manifest) == 40
    assert len(set(manifest.column("group"))) == 20
    labels = json.loads(members(tmp_path / "out")["000000001.json"])
    assert labels == {"patient": manifest.column("group")[1], "visit": "2"}


def test_notes_and_labels_of_the_long_form_stand_once_or_always(tmp_path):
    rows = [row | {"note": "", "label": "b"} for row in long_rows()]
    rows[1]["note"] = "seen in the morning"
    rows[3]["label"] = "a"
    manifest = build(tmp_path, rows)
    found = members(tmp_path / "out")
    assert found["000000000.txt"].decode() == "seen in the morning"
    assert manifest.lengths("text")[1:].sum() == 0
    assert "its rows disagree on 'label': 'b' and 'a'" in manifest.rejected[0]["reason"]
    assert manifest.rejected[0]["input"].endswith(f"row 3, patient {rows[2]['patient']}")
    assert len(manifest) == 19
    assert columns(manifest)["glucose"]["count"] == 19


def test_a_typed_table_may_hold_dates_for_the_order_and_truth_values(tmp_path):
    rows = long_rows()
    table = {name: [row[name] for row in rows] for name in ("patient", "item")}
    days = [datetime.datetime(2024, 1, 1 + i % 20) for i in range(len(rows))]
    pq.write_table(pa.table(table | {"value": [float(i) for i in range(40)], "time": days}), tmp_path / "l.parquet")
    manifest = build_labs(tmp_path / "l.parquet", tmp_path / "long")
    assert not manifest.rejected
    flags = {"smoker": [True, False, None, True] * 10, "age": list(range(40))}
    pq.write_table(pa.table(flags), tmp_path / "w.parquet")
    manifest = build_labs(tmp_path / "w.parquet", tmp_path / "wide")
    assert columns(manifest)["smoker"]["categories"] == ["false", "true"]


def test_the_summary_has_a_line_a_column(tmp_path):
    rows = [row | {"sodium": "140"} for row in wide_rows(12)]
    for i, row in enumerate(rows):
        row |= {"creatinine": ("1", "3")[i % 2], "sex": ("female", "male")[i % 2]}
    build(tmp_path, rows, units={"creatinine": "mg/dl"}, split=(1, 0, 0), clip=(0, 1))
    lines = summary_lines(load_manifest(tmp_path / "out"))
    assert lines[0] == "creatinine [mg/dl]: in 100.0% of the training samples, 2 ± 1"
    assert lines[2] == "sex: in 100.0% of the training samples, female 50.0%, male 50.0%"
    assert len(lines) == 4
