import sys
import zipfile
from typing import Any

import numpy as np
import pytest

from mmpt.data.builders.ecg import build_ecg, summary_lines
from mmpt.data.builders.records import edf_library, read_samples
from mmpt.errors import DataError
from tests.data.heartbeats import heartbeats, reasons, signals, write_csv, write_edf, write_records, write_wfdb
from tests.data.material import members, write_table

LEADS = ["I", "II"]
ARRAYS: dict[str, Any] = {"source_rate": 100, "unit": "mV", "leads": LEADS}
CSV: dict[str, Any] = {"source_rate": 100, "unit": "mV"}


@pytest.fixture
def source(tmp_path):
    """A folder with one good record."""
    write_wfdb(tmp_path / "in", "good", heartbeats(0), LEADS)
    return tmp_path / "in"


def only_reason(manifest):
    """Why the one bad input beside the good record was left out."""
    ((_, reason),) = reasons(manifest).items()
    assert len(manifest) == 1
    assert manifest.statistics["rejected"] == 1
    return reason


@pytest.mark.parametrize(
    ("leads", "words"),
    [
        (["I", "V11"], r"unknown lead 'V11', the nearest is 'V1'; rename it, or name it among leads"),
        (["I", "-aVR"], "unknown lead '-aVR', the nearest is 'aVR'"),
        (["II", "MLII"], "columns 'II' and 'MLII' are both lead II; remove one"),
    ],
)
def test_a_record_with_unknown_or_repeated_leads_is_left_out(tmp_path, source, leads, words):
    write_wfdb(source, "bad", heartbeats(1), leads)
    manifest = build_ecg(source, tmp_path / "out")
    assert only_reason(manifest).startswith(words.split("; rename")[0])
    assert manifest.fields["ecg"].facts["leads"] == LEADS  # those of bad records don't count


def test_a_record_without_a_lead_that_is_asked_for_is_left_out(tmp_path, source):
    write_wfdb(source, "bad", heartbeats(1), ["V1", "V2"])
    manifest = build_ecg(source, tmp_path / "out", leads=("I", "V6"))
    assert only_reason(manifest) == "none of its leads (V1, V2) is asked for (I, V6)"


def test_flat_clipped_and_broken_leads_are_counted_and_nan(tmp_path):
    signal = heartbeats(1, width=5)
    signal[:, 1] = 0.25
    signal[:, 2] = signal[:, 2].clip(-0.05, 2)
    signal[50:70, 3] = np.nan
    signal[50:53, 4] = np.nan
    write_csv(tmp_path / "in" / "a.csv", signal, ["I", "II", "III", "V1", "V2"])
    manifest = build_ecg(tmp_path / "in", tmp_path / "out", split=(1, 0, 0), **CSV)
    assert np.isnan(signals(manifest)[0]).any(axis=0).tolist() == [False, True, True, True, False]
    own = manifest.statistics["ecg"]["leads"]
    assert own == {
        "observed": [1, 0, 0, 0, 1],
        "missing": [0] * 5,
        "gaps": [0, 0, 0, 1, 0],
        "flat": [0, 1, 0, 0, 0],
        "clipped": [0, 0, 1, 0, 0],
    }
    assert "II: observed in 0 of 1 (flat 1)" in summary_lines(manifest)
    assert manifest.statistics["ecg"]["mean"][1:4] == [0.0] * 3


def test_what_wfdb_marks_as_invalid_is_a_gap(tmp_path, source):
    signal = heartbeats(1)
    signal[:100, 0] = np.nan
    write_wfdb(source, "lost", signal, LEADS)
    manifest = build_ecg(source, tmp_path / "out")
    assert manifest.statistics["ecg"]["leads"]["gaps"] == [1, 0]
    assert np.isnan(signals(manifest)[1][:, 0]).all()


def test_a_record_without_an_observed_lead_is_left_out(tmp_path, source):
    signal = heartbeats(1)
    signal[:, 0], signal[100:300, 1] = 3.0, np.nan
    write_csv(source / "bad.csv", signal, LEADS)
    manifest = build_ecg(source, tmp_path / "out", **CSV)
    assert only_reason(manifest) == "no lead is observed (I flat, II gaps)"


def test_a_missing_signal_file_is_named(tmp_path, source):
    write_wfdb(source, "bad", heartbeats(1), LEADS)
    (source / "bad.dat").unlink()
    manifest = build_ecg(source, tmp_path / "out")
    assert only_reason(manifest) == "its header names 'bad.dat', which is not beside it"


@pytest.mark.parametrize(("size", "settings"), [(0, {}), (100, {}), (1599, {}), (700, {"fmt": ["212"] * 2})])
def test_a_signal_file_that_is_cut_short_is_left_out(tmp_path, source, size, settings):
    write_wfdb(source, "bad", heartbeats(1), LEADS, **settings)
    data = (source / "bad.dat").read_bytes()
    assert len(data) > size
    (source / "bad.dat").write_bytes(data[:size])
    manifest = build_ecg(source, tmp_path / "out")
    assert "its samples can't be read, is a file cut short or damaged? (" in only_reason(manifest)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bad 2 100 400", "bad 2 0 400", "expected a sampling rate above 0, got 0.0 Hz"),
        ("bad 2 100 400", "bad 2 100 0", "it has no samples"),
        ("bad 2 100 400", "bad 2 100 999999999", "promises 999999999 samples, far more than its files can hold"),
        ("bad 2 100 400", "bad two", "its header has no line about the record"),
        ("bad 2 100 400", "bad 3 100 400", "its header promises 3 signals and names 2"),
        (" II\n", "\n", "its header promises 2 signals and names 1"),
        ("bad.dat", "../good.dat", "its header has no line, or one that can't be understood, about a signal"),
        ("/mV", "/mmHg", "lead I: unit 'mmHg' is no voltage, expected one of V, mV, uV, nV"),
    ],
)
def test_a_header_that_makes_no_sense_is_left_out(tmp_path, source, old, new, words):
    write_wfdb(source, "bad", heartbeats(1), LEADS)
    header = source / "bad.hea"
    assert old in header.read_text()
    header.write_text(header.read_text().replace(old, new))
    manifest = build_ecg(source, tmp_path / "out")
    assert words in next(reason for name, reason in reasons(manifest).items() if name == "bad.hea")
    assert len(manifest) == 1


def test_a_signal_file_without_header_and_strange_files_are_listed(tmp_path, source):
    (source / "lost.dat").write_bytes(b"1234")
    (source / "scan.pdf").write_bytes(b"%PDF")
    for name in ("notes.txt", "good.atr", "RECORDS", "page.html"):
        (source / name).write_bytes(b"beside")
    manifest = build_ecg(source, tmp_path / "out")
    assert reasons(manifest) == {
        "lost.dat": "no readable header (.hea) names this signal file",
        "scan.pdf": "not one of .hea, .edf, .npy, .npz, .csv",
    }


def test_values_far_beyond_any_heart_are_refused(tmp_path, source):
    write_csv(source / "bad.csv", heartbeats(1) * 1e8, LEADS)
    manifest = build_ecg(source, tmp_path / "out", **CSV)
    assert "is its unit right?" in only_reason(manifest)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unit": "mmHg"}, "unit 'mmHg' is no voltage, expected one of V, mV, uV, nV; or none"),
        ({"unit": "none"}, r"good\.hea: it says its unit \(mV\), which unit none would drop"),
        ({"sample_rate": 0}, "sample_rate must be above 0, got 0"),
        ({"source_rate": float("nan")}, "source_rate must be above 0, got nan"),
        ({"max_seconds": -1.0}, "max_seconds must be above 0"),
        ({"leads": ()}, "leads: expected at least one name"),
        ({"leads": ("II", "MLII")}, "leads: expected different names, got 'II' 2 times"),
        ({"leads": ("I", "V7")}, "no record has lead 'V7'; did you mean 'V6'"),
        ({"processes": 0}, "processes"),
        ({"split": (1, 1, 1)}, "split"),
        ({"labels": "gone.csv"}, r"gone\.csv"),
    ],
)
def test_bad_settings_are_refused(tmp_path, source, settings, words):
    with pytest.raises(DataError, match=words):
        build_ecg(source, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("leads", r"an array doesn't name its leads; give leads \(--leads"),
        ("source_rate", r"it doesn't say its sampling rate; give source_rate \(--source-rate"),
        ("unit", r"it doesn't say its unit; give unit \(--unit"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_an_array_without_what_it_does_not_say_is_refused(tmp_path, lacking, words, whole):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.npy"
    np.save(path, np.stack([heartbeats(i) for i in range(3)]) if whole else heartbeats(1))
    settings = {name: value for name, value in ARRAYS.items() if name != lacking}
    with pytest.raises(DataError, match=rf"a\.npy: {words}"):
        build_ecg(path if whole else tmp_path / "in", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lacking", ["source_rate", "unit"])
def test_a_csv_file_does_not_say_its_rate_or_unit(tmp_path, source, lacking):
    write_csv(source / "a.csv", heartbeats(1), LEADS)
    with pytest.raises(DataError, match=rf"a\.csv: it doesn't say .*{lacking}"):
        build_ecg(source, tmp_path / "out", **{name: value for name, value in CSV.items() if name != lacking})


def test_arrays_of_another_width_are_left_out(tmp_path, source):
    np.save(source / "three.npy", heartbeats(1, width=3))
    np.save(source / "words.npy", np.array([["a", "b"]]))
    np.save(source / "pickle.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    np.savez(source / "two.npz", a=heartbeats(1), b=heartbeats(2))
    (source / "cut.npy").write_bytes((source / "three.npy").read_bytes()[:500])
    (source / "text.npz").write_bytes(b"no zip")
    found = reasons(build_ecg(source, tmp_path / "out", **ARRAYS))
    assert found.pop("three.npy") == "2 leads are named, expected an array of T x 2 or 2 x T, got 400 x 3"
    assert found.pop("words.npy") == "expected an array of numbers, got <U1"
    assert found.pop("two.npz") == "it holds the arrays a, b; name one of them 'signal'"
    for name in ("pickle.npy", "cut.npy", "text.npz"):
        assert found.pop(name).startswith("its header can't be read (")
    assert not found


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(5), "expected an array of N x T, or N x T x 2, with a recording a row, got 5"),
        (np.zeros((5, 0, 2)), "got 5 x 0 x 2"),
        (np.zeros((5, 90)), "2 leads are named, expected an array of T x 2 or 2 x T, got 90"),
        (np.zeros((5, 90, 3)), "2 leads are named, expected an array of T x 2 or 2 x T, got 90 x 3"),
        (np.zeros((5, 90), dtype=complex), "expected an array of numbers, got complex128"),
    ],
)
def test_a_whole_array_of_another_shape_is_refused(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=rf"a\.npy: .*{words}"):
        build_ecg(tmp_path / "a.npy", tmp_path / "out", **ARRAYS)


def test_rows_of_a_whole_array_that_are_bad_are_listed(tmp_path):
    array = np.stack([heartbeats(i)[:, 0] for i in range(4)])
    array[1], array[2] = np.nan, 7
    np.save(tmp_path / "a.npy", array)
    rows = [{"row": row, "label": "x"} for row in ("0", "9", "-1", "first", "", "00")]
    table = write_table(tmp_path / "t.csv", rows)
    manifest = build_ecg(tmp_path / "a.npy", tmp_path / "out", labels=table, leads=["II"], source_rate=100, unit="mV")
    assert len(manifest) == 2
    assert reasons(manifest) == {
        "a.npy: row 1": "no lead is observed (II gaps)",
        "a.npy: row 2": "no lead is observed (II flat)",
        "t.csv:3": "'9': there is no such row",
        "t.csv:4": "'row' is '-1', expected a number from 0",
        "t.csv:5": "'row' is 'first', expected a number from 0",
        "t.csv:6": "no 'row' in this row",
        "t.csv:7": "'0' has a row already",
    }


def test_rows_without_a_record_are_listed(tmp_path, source):
    write_wfdb(source / "a", "same", heartbeats(1), LEADS)
    write_wfdb(source / "b", "same", heartbeats(2), LEADS)
    write_wfdb(source, "bad", heartbeats(1), ["I", "V11"])
    rows = [{"file": name, "label": "x"} for name in ("gone", "same", "a/same.hea", "a/same", "good.dat", "bad", "")]
    manifest = build_ecg(source, tmp_path / "out", labels=write_table(tmp_path / "t.csv", rows))
    found = reasons(manifest)
    assert found.pop("bad.hea").startswith("unknown lead")  # its row is no error
    assert found == {
        "t.csv:2": "'gone': there is no such record",
        "t.csv:3": "'same': several records have this name, give the path",
        "t.csv:5": "'a/same' has a row already",
        "t.csv:8": "no 'file' in this row",
    }
    assert len(manifest) == 3


def test_tables_without_the_column_that_names_records_are_refused(tmp_path, source):
    table = write_table(tmp_path / "t.csv", [{"row": "1", "label": "x"}])
    with pytest.raises(DataError, match="no 'file' column; it has label, row"):
        build_ecg(source, tmp_path / "out", labels=table)
    np.save(tmp_path / "a.npy", np.stack([heartbeats(1)]))
    table = write_table(tmp_path / "t.csv", [{"file": "1", "label": "x"}])
    with pytest.raises(DataError, match="no 'row' column; it has file, label"):
        build_ecg(tmp_path / "a.npy", tmp_path / "out", labels=table, **ARRAYS)


def test_reports_without_a_report_are_refused(tmp_path, source):
    table = write_table(tmp_path / "t.csv", [{"file": "good", "text": "sinus rhythm"}])
    with pytest.raises(DataError, match="reports: no record has a report"):
        build_ecg(source, tmp_path / "out", reports=table)
    assert not (tmp_path / "out").exists()


def test_csv_files_that_are_no_records_are_listed(tmp_path, source):
    (source / "text.csv").write_text("I,II\n1,2\n3,high\n")
    (source / "ragged.csv").write_text("I,II\n1,2\n3\n")
    (source / "patients.csv").write_text("patient,age\n1,2\n")
    (source / "empty.csv").write_text("I,II\n")
    (source / "nothing.csv").write_text("")
    (source / "bytes.csv").write_bytes(b"I,II\n1,\xff\n")
    found = reasons(build_ecg(source, tmp_path / "out", **CSV))
    assert "high" in found.pop("text.csv")
    assert "Expected 2 columns, got 1" in found.pop("ragged.csv")
    assert found.pop("patients.csv").startswith("unknown lead 'patient'")
    assert found.pop("empty.csv") == "it has no samples"
    assert found.pop("nothing.csv") == "it has no columns"
    assert "can't be read" in found.pop("bytes.csv")
    assert not found


def test_a_file_that_shrank_since_its_header_was_read_is_no_shorter_record(tmp_path):
    np.save(tmp_path / "a.npy", heartbeats(1))
    assert read_samples(tmp_path / "a.npy", 2, 100, 400).shape == (300, 2)
    with pytest.raises(DataError, match="it has 400 samples, where the header promises 500 or more"):
        read_samples(tmp_path / "a.npy", 2, 100, 500)


def test_a_table_of_patients_among_records_needs_no_rate(tmp_path, source):
    (source / "patients.csv").write_text("patient,age\n1,2\n")
    assert only_reason(build_ecg(source, tmp_path / "out")).startswith("unknown lead 'patient'")


def test_edf_files_that_can_not_be_used_are_listed(tmp_path, source):
    write_edf(source / "unit.edf", heartbeats(1), LEADS, "mmHg")
    write_edf(source / "cut.edf", heartbeats(1), LEADS, "mV")
    (source / "cut.edf").write_bytes((source / "cut.edf").read_bytes()[:-100])
    (source / "text.edf").write_bytes(b"hello")
    edfio = edf_library()
    own = [edfio.EdfSignal(heartbeats(1)[:, 0], rate, label=lead) for lead, rate in (("I", 100), ("II", 200))]
    own[1] = edfio.EdfSignal(heartbeats(1, 800)[:, 0], 200, label="II")
    edfio.Edf(own, data_record_duration=1).write(source / "rates.edf")
    found = reasons(build_ecg(source, tmp_path / "out"))
    assert found.pop("unit.edf") == "lead I: unit 'mmHg' is no voltage, expected one of V, mV, uV, nV"
    assert found.pop("rates.edf") == "expected signals of one sampling rate, got I 100 Hz, II 200 Hz"
    assert found.pop("text.edf").startswith("its header can't be read (")
    assert "can't be read" in found.pop("cut.edf")
    assert not found


def test_damage_inside_a_zip_leaves_out_what_it_hits(tmp_path):
    folder = write_records(tmp_path / "in", 3)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:  # stored, so that a byte can be found
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    data = bytearray((tmp_path / "in.zip").read_bytes())
    at = data.index((folder / "r001.dat").read_bytes())
    data[at + 7] ^= 255
    (tmp_path / "in.zip").write_bytes(data)
    manifest = build_ecg(tmp_path / "in.zip", tmp_path / "out")
    assert reasons(manifest) == {"r001.hea": "can't be read from the zip (Bad CRC-32 for file 'r001.dat')"}
    assert sorted(members(tmp_path / "out"))[2:] == ["000000002.ecg.npy", "000000002.json"]


def test_sources_of_the_wrong_kind_are_refused(tmp_path, source):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    for name, words in (
        ("empty", "no record in it"),
        ("broken.zip", "not a readable zip"),
        ("gone", "found nothing"),
        ("in/good.hea", "expected a folder of records or a .zip, got a file"),
    ):
        with pytest.raises(DataError, match=words):
            build_ecg(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_a_good_record_nothing_is_left_behind(tmp_path):
    write_csv(tmp_path / "in" / "flat.csv", np.ones((100, 2)), LEADS)
    with pytest.raises(DataError, match=r"not one good sample.*flat\.csv: no lead is observed \(I flat, II flat\)"):
        build_ecg(tmp_path / "in", tmp_path / "out", **CSV)
    (tmp_path / "in" / "flat.csv").write_text("I,V11\n1,2\n")
    with pytest.raises(DataError, match=r"not one good sample.*flat\.csv: unknown lead 'V11'"):
        build_ecg(tmp_path / "in", tmp_path / "out", **CSV)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("library", ["wfdb", "edfio"])
def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch, library):
    write_wfdb(tmp_path / "in", "a", heartbeats(1), LEADS)
    if library == "edfio":
        write_edf(tmp_path / "in" / "b.edf", heartbeats(1), LEADS, "mV")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DataError, match=rf"package {library}; install it: pip install 'mmpt\[ecg\]'"):
        build_ecg(tmp_path / "in", tmp_path / "out")
