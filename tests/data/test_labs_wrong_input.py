import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpt.data.builders.labs import build_labs
from mmpt.errors import DataError
from tests.data.material import members, write_table
from tests.data.test_labs_builder import SMALL, build, cells, columns, groups_of, long_rows, wide_rows


def listed(manifest):
    return {entry["input"].split(": ", 1)[1]: entry["reason"] for entry in manifest.rejected}


def test_units_that_disagree_lose_the_rarer_cells_and_are_told_of(tmp_path):
    odd = [(f"q{i}", "glucose", "5.5", "mmol/L", "1") for i in range(4)]
    rows = long_rows(*odd, ("r", "glucose", "90", "", "1"), ("s", "glucose", "80", "MG/DL ", "1"))
    manifest = build(tmp_path, rows)
    assert columns(manifest)["glucose"]["unit"] == "mg/dl"
    reason = "4 cells in mmol/L, 22 in mg/dl; the 4 are left out"
    assert listed(manifest)["glucose"] == reason
    conflict = {"column": "glucose", "unit": "mg/dl", "cells": 22, "others": {"mmol/L": 4}}
    assert manifest.statistics["labs"]["unit_conflicts"] == [conflict]
    assert manifest.statistics["labs"]["rejected_cells"] == {"glucose": 4}
    assert set(manifest.column("group")).isdisjoint({"q0", "q1", "q2", "q3"})
    assert {"r", "s"} <= set(manifest.column("group"))
    assert manifest.statistics["rejected"] == 4 + 4  # cells, and the samples that had no other


def test_a_stated_unit_is_kept_even_where_it_is_the_rarer(tmp_path):
    odd = [(patient, "glucose", "5.5", "mmol/l", "1") for patient in groups_of("train")[30:33]]
    manifest = build(tmp_path, long_rows(*odd), units={"glucose": "mmol/l"})
    assert columns(manifest)["glucose"] | {"quantiles": []} == {
        "name": "glucose", "unit": "mmol/l", "kind": "numeric", "count": 3, "mean": 5.5, "std": 1.0, "low": 5.5,
        "high": 5.5, "observed": 3 / 23, "quantiles": [],
    }  # fmt: skip
    assert listed(manifest)["glucose"] == "20 cells in mg/dl, 3 in mmol/l; the 20 are left out"


def test_a_column_all_missing_in_training_is_left_out_and_named(tmp_path):
    rows = [row | {"lactate": "", "troponin": "null"} for row in wide_rows()]
    held_out = [row | {"patient": groups_of("test")[0], "lactate": "2.5"} for row in rows[:1]]
    manifest = build(tmp_path, rows + held_out)
    assert list(columns(manifest)) == ["creatinine", "sodium", "sex", "ward"]
    assert manifest.statistics["labs"]["empty_columns"] == ["lactate", "troponin"]
    assert (
        listed(manifest)["lactate"] == "all missing in the training split (1 cells elsewhere); the column is left out"
    )
    assert cells(tmp_path / "out")[60][:, 0].max() <= 3


def test_a_table_of_nothing_but_missing_cells_is_refused(tmp_path):
    with pytest.raises(DataError, match="none of 1 lab columns has a value in the training split"):
        build(tmp_path, [{"patient": str(i), "creatinine": "NA"} for i in range(20)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pending", "'pending' is not a number"),
        ("1,5", "'1,5' is not a number"),
        ("0x10", "'0x10' is not a number"),
        ("1_000", "'1_000' is not a number"),
        ("<5", "'<5' is a bound, not a measured value"),
        ("> 100", "'> 100' is a bound, not a measured value"),
        ("-inf", "'-inf' is not finite"),
        ("1e39", "'1e39' is more than float32 holds"),
        ("2024-01-03", "'2024-01-03' is a date or a time, expected a number"),
        ("3.1.2024 10:00", "'3.1.2024 10:00' is a date or a time, expected a number"),
        ("3-Jan-2024", "'3-Jan-2024' is a date or a time, expected a number"),
    ],
)
def test_a_cell_that_is_no_number_is_left_out_and_its_row_stays(tmp_path, text, reason):
    rows = wide_rows()
    rows[7]["creatinine"] = text
    manifest = build(tmp_path, rows)
    assert listed(manifest) == {"row 8, creatinine": reason}
    assert manifest.statistics["rejected"] == 1
    assert manifest.statistics["labs"]["rejected_cells"] == {"creatinine": 1}
    assert len(manifest) == 60
    assert cells(tmp_path / "out")[7][:, 0].tolist() == [2, 3]


@pytest.mark.parametrize("text", [" 1.5 ", "+1.5", "1.5e0", "1.50", "15E-1"])
def test_a_number_may_be_written_in_any_plain_way(tmp_path, text):
    rows = wide_rows()
    rows[1]["creatinine"] = text
    manifest = build(tmp_path, rows)
    assert not manifest.rejected
    assert cells(tmp_path / "out")[1][0].tolist() == [0, 1.5]


def test_many_bad_cells_of_one_column_leave_room_for_others(tmp_path):
    rows = [row | {"creatinine": "pending" if i % 3 else "1"} for i, row in enumerate(wide_rows(200))]
    rows = [row | ({"creatinine": "2"} if i % 2 else {}) for i, row in enumerate(rows)]
    bad = sum(row["creatinine"] == "pending" for row in rows)
    rows[0]["sodium"] = "haemolysed"
    manifest = build(tmp_path, rows)
    assert bad > 20
    assert sum(name.endswith("creatinine") for name in listed(manifest)) == 20
    assert listed(manifest)["row 1, sodium"] == "'haemolysed' is not a number"
    assert manifest.statistics["rejected"] == bad + 1


@pytest.mark.parametrize(
    "values",
    [
        [f"word {i}" for i in range(60)],  # too many words for categories
        [f"2024-01-{i % 5 + 1:02d}" for i in range(60)],  # few, but dates
        [f"<{i % 3 + 1}" for i in range(60)],  # few, but bounds
        ["high" if i % 3 else "5" for i in range(60)],
    ],
)
def test_a_column_that_is_mostly_no_numbers_refuses_the_build(tmp_path, values):
    rows = [row | {"odd": value, "creatinine": "x1" if i % 5 else "1"} for i, (row, value) in enumerate(
        zip(wide_rows(), values, strict=True)
    )]  # fmt: skip
    with pytest.raises(DataError, match=r"labs\.csv: .*'creatinine': \d+ of \d+ .*'x1'; 'odd': .*--categorical NAME"):
        build(tmp_path, rows)
    assert not (tmp_path / "out").exists()
    manifest = build(tmp_path, rows, categorical=("odd",), columns=("odd", "sodium"))
    assert columns(manifest)["odd"]["kind"] == "categorical"


def test_words_of_the_long_form_have_to_be_declared(tmp_path):
    words = [(patient, "colour", ("yellow", "red")[i % 2], "", "1") for i, patient in enumerate(groups_of("train")[:9])]
    with pytest.raises(DataError, match="'colour': 9 of 9 cells of the training split, for example 'yellow', 'red'"):
        build(tmp_path, long_rows(*words))
    manifest = build(tmp_path, long_rows(*words), categorical=["colour"])
    assert columns(manifest)["colour"]["counts"] == [4, 5]


def test_times_that_have_no_order_lose_their_cell(tmp_path):
    odd = [("x", "glucose", "7", "", when) for when in ("soon", "", "2024-01-01")]
    manifest = build(tmp_path, long_rows(*odd, ("x", "glucose", "8", "", "3")))
    assert listed(manifest) == {
        "row 1, glucose": "time 'soon' can't be put in order with the others",
        "row 2, glucose": "time '' can't be put in order with the others",
        "row 3, glucose": "time '2024-01-01' can't be put in order with the others",
    }
    assert cells(tmp_path / "out")[0].tolist() == [[0, 8]]


def test_rows_without_patient_or_item_are_listed(tmp_path):
    rows = long_rows(("", "glucose", "5", "", "1"), ("x", "", "5", "", "1"), ("x", "urea", "5", "", "1"))
    manifest = build(tmp_path, rows)
    assert listed(manifest) == {"row 1": "no 'patient' in this row", "row 2": "no 'item' in this row"}
    assert cells(tmp_path / "out")[0].tolist() == [[1, 5]]


def test_ragged_rows_are_listed_and_the_numbers_of_the_others_hold(tmp_path):
    good = "\n".join(f"p{i},{i},{i}" for i in range(30))
    text = f'patient,a,b\np,1\n\n{good}\np,1,2,3\nq,x,1\np,"1\n2,3\n'
    (tmp_path / "labs.csv").write_text(text)
    manifest = build_labs(tmp_path / "labs.csv", tmp_path / "out")
    assert listed(manifest) == {
        "row 1": "2 cells, where the header has 3 columns",
        "row 32": "4 cells, where the header has 3 columns",
        "row 33, a": "'x' is not a number",
        "row 34": "2 cells, where the header has 3 columns (over 2 lines: is a quotation mark left open?)",
    }
    assert len(manifest) == 31


def test_notes_may_have_several_lines_and_quotation_marks(tmp_path):
    rows = wide_rows()
    rows[1]["note"] = 'He said: "no",\nand left.'
    rows[5]["creatinine"] = "later"
    manifest = build(tmp_path, rows)
    assert listed(manifest) == {"row 6, creatinine": "'later' is not a number"}
    assert members(tmp_path / "out")["000000001.txt"].decode() == rows[1]["note"]


def test_a_note_may_cross_the_blocks_that_a_table_is_read_in(tmp_path, monkeypatch):
    monkeypatch.setattr("mmpt.data.lab_table.BLOCK", 1000)
    rows = [row | {"note": f"note {i}\n" * 40} for i, row in enumerate(wide_rows())]
    manifest = build(tmp_path, rows)
    assert not manifest.rejected
    assert members(tmp_path / "out")["000000059.txt"].decode() == rows[59]["note"].strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,a\n1,2,3\n", "two columns are named 'a'"),
        ("a,b, a \n1,2,3\n", "two columns are named 'a'"),
        (",a\n0,1\n", "column 1 has no name; name it, or save the table without its row index"),
        ("patient;a\n0;1\n", "the header is one column 'patient;a'"),
        ("", "the file is empty"),
        ("a,b\n", "no row below the header can be used"),
        (b"a,b\n1,\xff\n", "not a readable .csv table in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not a readable .csv table in UTF-8"),
    ],
)
def test_a_file_that_is_no_good_table_is_refused(tmp_path, text, words):
    (tmp_path / "labs.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words) as caught:
        build_labs(tmp_path / "labs.csv", tmp_path / "out")
    assert str(caught.value).startswith(str(tmp_path / "labs.csv"))
    assert not (tmp_path / "out").exists()


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "labs.xlsx").write_bytes(b"PK")
    (tmp_path / "labs.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "labs.csv.gz").write_bytes(b"a,b\n1,2\n")
    pq.write_table(pa.table({"a": [[1], [2]]}), tmp_path / "nested.parquet")
    expected = {
        "folder.csv": "got a folder",
        "gone.csv": "found nothing",
        "labs.xlsx": r"expected a table \(.csv,",
        "labs.parquet": "not a readable .parquet table",
        "labs.csv.gz": "not a readable .csv.gz table",
        "nested.parquet": "column 'a' holds list",
    }
    for name, words in expected.items():
        with pytest.raises(DataError, match=words):
            build_labs(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": ("creatinin",)}, "no column 'creatinin'; did you mean 'creatinine'"),
        ({"columns": ("creatinine", "label")}, "column 'label' is named as a lab and as a key or label"),
        ({"categorical": ("sexx",)}, "no lab column 'sexx'; did you mean 'sex'"),
        ({"units": {"sodiun": "mmol/l"}}, "no column for a unit 'sodiun'; did you mean 'sodium'"),
        ({"units": "gone.yaml"}, r"gone\.yaml: units can't be read"),
        ({"labels": ("wart",)}, "no column 'wart'; did you mean 'ward'"),
        ({"labels": ("label",), "label_key": "ward"}, "name one"),
        ({"note_key": "notes"}, "no column 'notes'; did you mean 'note'"),
        ({"form": "tall"}, "form is auto, wide, long, got 'tall'"),
        ({"form": "long"}, "the long form needs a column 'item' and 'value'"),
        ({"aggregate": "median"}, "aggregate is first, mean, last, got 'median'"),
        ({"aggregate": "mean", "categorical": ("sex",)}, "no meaning for the categories of sex"),
        ({"clip": (0.9, 0.1)}, "clip takes two quantiles between 0 and 1"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"split": (0.5, 0.5, 0.5)}, "sum to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, words):
    table = write_table(tmp_path / "labs.csv", wide_rows())
    with pytest.raises(DataError, match=words):
        build_labs(table, tmp_path / "out", **SMALL | settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": ("glucoze",)}, "no item 'glucoze'; did you mean 'glucose'"),
        ({"units": {"ureo": "mg/dl"}}, "no item 'ureo'; did you mean 'urea'"),
        ({"columns": ("urea",), "categorical": ("glucose",)}, "no lab column 'glucose'"),
    ],
)
def test_items_that_are_not_there_are_refused(tmp_path, settings, words):
    with pytest.raises(DataError, match=words):
        build(tmp_path, long_rows(), **settings)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("units.csv", "column,unit\nsodium,mmol/l\nsodium,mEq/l\n", "a column has two rows"),
        ("units.csv", "name,unit\nsodium,mmol/l\n", "there is no column 'column'"),
        ("units.csv", "column,unit\nsodium,mmol/l,x\n", "3 cells, where the header has 2 columns"),
        ("units.csv", "column,unit\nsodium,mmol/l\nurea\n", "row 2: 1 cells, where"),
        ("units.yaml", "sodium: 5\n", "a unit is text for a column's name, got 'sodium': 5"),
        ("units.json", "[]", "expected a mapping of columns to units, got list"),
        ("units.json", "{", "units can't be read"),
    ],
)
def test_a_units_file_that_can_not_be_used_is_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        build(tmp_path, wide_rows(), units=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_without_a_good_sample_nothing_is_left_behind(tmp_path):
    rows = [row | {"label": "ab"[i % 2]} for i, row in enumerate(long_rows())]
    rows = [row | {"patient": "x"} for row in rows]
    with pytest.raises(DataError, match="none of 2 lab columns"):
        build(tmp_path, rows)
    assert not (tmp_path / "out").exists()
