import json
import zipfile
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample_poly

from mmpt.data.builders.ecg import build_ecg, summary_lines
from mmpt.data.builders.lead_quality import examine
from mmpt.data.leads import STANDARD, in_order, lead_name, millivolts
from mmpt.data.manifest import load_manifest
from mmpt.data.split import split_of
from mmpt.errors import DataError
from tests.data.heartbeats import heartbeats, reasons, signals, write_csv, write_edf, write_records, write_wfdb
from tests.data.material import contents, members, write_table

SMALL: dict[str, Any] = {"vocabulary": 300, "samples_per_shard": 5}
ALL_TRAIN = (1.0, 0.0, 0.0)


def labels(manifest):
    found = members(manifest.folder)
    return [json.loads(found[name]) for name in sorted(found) if name.endswith(".json")]


def test_a_wfdb_record_becomes_millivolts_in_the_standard_order(tmp_path):
    written = write_wfdb(
        tmp_path / "in", "a", heartbeats(1, width=3) * [1, 1000, 1e6], ["V1", "MLII", "aVR"], units=["mV", "uV", "nV"]
    )
    manifest = build_ecg(tmp_path / "in", tmp_path / "out")
    assert manifest.fields["ecg"].facts == {"leads": ["II", "aVR", "V1"], "sample_rate": 100, "unit": "mV"}
    (signal,) = signals(manifest)
    assert signal.dtype == np.float32
    assert signal.shape == (400, 3)
    assert np.allclose(signal, (written / [1, 1000, 1e6])[:, [1, 2, 0]], atol=1e-6)
    assert np.allclose(signal, heartbeats(1, width=3)[:, [1, 2, 0]], atol=1e-3)
    assert manifest.lengths("ecg").tolist() == [400]
    assert not manifest.rejected


def test_every_format_gives_the_same_signal(tmp_path):
    signal, leads = heartbeats(1), ["I", "II"]
    source = tmp_path / "in"
    write_wfdb(source, "a", signal, leads)
    write_edf(source / "b.edf", signal * 1000, ["ECG I", "ECG II"], "uV")
    write_csv(source / "c.csv", signal, leads)
    np.save(source / "d.npy", signal)
    np.save(source / "e.npy", signal.T.astype(np.float32))
    np.savez(source / "f.npz", signal=signal, other=np.zeros(3))
    manifest = build_ecg(source, tmp_path / "out", leads=leads, source_rate=100, unit="mV")
    assert not manifest.rejected
    found = signals(manifest)
    assert [own["file"] for own in labels(manifest)] == ["a.hea", "b.edf", "c.csv", "d.npy", "e.npy", "f.npz"]
    for own in found:
        assert own.shape == signal.shape
        assert np.allclose(own, signal, atol=2e-4)
    for exact in found[2:]:
        assert np.allclose(exact, signal, atol=1e-7)


def test_a_record_of_several_segments_is_one_sample(tmp_path):
    source = tmp_path / "in"
    first, second = (write_wfdb(source, f"m_{i}", heartbeats(i), ["I", "II"], fmt=["212"] * 2) for i in (1, 2))
    (source / "m.hea").write_text("m/2 2 100 800\nm_1 400\nm_2 400\n")
    manifest = build_ecg(source, tmp_path / "out")
    (signal,) = signals(manifest)
    assert np.allclose(signal, np.concatenate([first, second]), atol=1e-6)
    assert labels(manifest) == [{"file": "m.hea"}]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_microvolt_is_no_volt(tmp_path, encoding):
    write_wfdb(tmp_path / "in", "a", heartbeats(1) * 1000, ["I", "II"])
    header = tmp_path / "in" / "a.hea"
    header.write_bytes(header.read_text().replace("/mV", "/µV").encode(encoding))
    (signal,) = signals(build_ecg(tmp_path / "in", tmp_path / "out"))
    assert np.allclose(signal, heartbeats(1), atol=1e-3)


def test_segments_that_lack_a_lead_leave_a_gap(tmp_path):
    source = tmp_path / "in"
    written = write_wfdb(source, "m_1", heartbeats(1), ["I", "II"])
    write_wfdb(source, "m_2", heartbeats(2)[:, :1], ["I"])
    (source / "m_layout.hea").write_text("m_layout 2 100 0\n~ 0 200/mV 16 0 0 0 0 I\n~ 0 200/mV 16 0 0 0 0 II\n")
    (source / "m.hea").write_text("m/4 2 100 803\nm_layout 0\nm_1 400\n~ 3\nm_2 400\n")
    manifest = build_ecg(source, tmp_path / "out")
    (signal,) = signals(manifest)
    assert np.allclose(signal[:400, 0], written[:, 0], atol=1e-6)
    assert np.allclose(signal[403:, 0], heartbeats(2)[:, 0], atol=1e-3)
    assert np.isnan(signal[:, 1]).all()
    assert manifest.statistics["ecg"]["leads"]["gaps"] == [0, 1]


def test_a_header_without_a_length_takes_that_of_its_signal_file(tmp_path):
    write_wfdb(tmp_path / "in", "a", heartbeats(1), ["I", "II"])
    header = tmp_path / "in" / "a.hea"
    header.write_text(header.read_text().replace("a 2 100 400", "a 2 100"))
    assert signals(build_ecg(tmp_path / "in", tmp_path / "out"))[0].shape == (400, 2)


def test_leads_are_the_union_and_a_missing_one_is_nan(tmp_path):
    write_wfdb(tmp_path / "in", "a", heartbeats(1), ["v5", "I"])
    write_wfdb(tmp_path / "in", "b", heartbeats(2), ["aVF", "I"])
    manifest = build_ecg(tmp_path / "in", tmp_path / "out", split=ALL_TRAIN)
    assert manifest.fields["ecg"].facts["leads"] == ["I", "aVF", "V5"]
    first, second = signals(manifest)
    assert np.isnan(first).all(axis=0).tolist() == [False, True, False]
    assert np.isnan(second).all(axis=0).tolist() == [False, False, True]
    own = manifest.statistics["ecg"]["leads"]
    assert own["observed"] == [2, 1, 1]
    assert own["missing"] == [0, 1, 1]
    lines = summary_lines(manifest)
    assert "aVF: observed in 1 of 2 (missing 1)" in lines
    place = tmp_path / "in"
    assert lines[-2:] == [f"  {place}/a.hea: aVF missing", f"  {place}/b.hea: V5 missing"]


def test_leads_that_are_asked_for_are_kept_and_own_ones_allowed(tmp_path):
    write_wfdb(tmp_path / "in", "a", heartbeats(1, width=4), ["vx", "V2", "I", "II"])
    manifest = build_ecg(tmp_path / "in", tmp_path / "out", leads=("vx", "ii", "I", "V6"))
    assert manifest.fields["ecg"].facts["leads"] == ["I", "II", "V6", "vx"]
    (signal,) = signals(manifest)
    assert np.allclose(signal[:, [0, 1, 3]], heartbeats(1, width=4)[:, [2, 3, 0]], atol=1e-3)
    assert np.isnan(signal[:, 2]).all()


def test_other_rates_are_resampled_to_the_first_or_to_the_one_asked_for(tmp_path):
    write_wfdb(tmp_path / "in", "a", heartbeats(1), ["I", "II"])
    written = write_wfdb(tmp_path / "in", "b", heartbeats(2, 500), ["II", "I"], fs=250)
    manifest = build_ecg(tmp_path / "in", tmp_path / "out")
    assert manifest.fields["ecg"].facts["sample_rate"] == 100
    first, second = signals(manifest)
    assert (len(first), len(second)) == (400, 200)
    assert np.allclose(second, resample_poly(written[:, ::-1], 2, 5, padtype="line"), atol=1e-6)
    assert manifest.statistics["ecg"]["resampled"] == {"250": 1}
    assert manifest.statistics["ecg"]["seconds"] == {"total": 6.0, "min": 2.0, "median": 2.0, "max": 4.0}
    where = f"{tmp_path / 'in'}/b.hea"
    assert summary_lines(manifest)[-2:] == ["resampled: 1 from 250 Hz", f"  {where}: sampled at 250 Hz, not 100"]
    manifest = build_ecg(tmp_path / "in", tmp_path / "slow", sample_rate=62.5)
    assert manifest.fields["ecg"].facts["sample_rate"] == 62.5
    assert [len(own) for own in signals(manifest)] == [250, 125]
    assert manifest.statistics["ecg"]["resampled"] == {"100": 1, "250": 1}


def test_resampling_keeps_a_slow_wave_and_unobserved_leads(tmp_path):
    time = np.arange(1000) / 500
    wave = np.stack([np.sin(2 * np.pi * time) + 3, np.ones(1000)], axis=1)
    write_csv(tmp_path / "in" / "a.csv", wave, ["I", "II"])
    manifest = build_ecg(tmp_path / "in", tmp_path / "out", source_rate=500, sample_rate=120, unit="mV")
    (signal,) = signals(manifest)
    assert signal.shape == (240, 2)
    assert np.allclose(signal[:, 0], np.sin(2 * np.pi * np.arange(240) / 120) + 3, atol=0.01)
    assert np.isnan(signal[:, 1]).all()


@pytest.mark.parametrize("shape", [(12, 90), (12, 90, 2), (12, 2, 90)])
def test_an_array_holds_a_recording_a_row(tmp_path, shape):
    leads = ["II"] if len(shape) == 2 else ["V1", "II"]
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    np.savez_compressed(tmp_path / "beats.npz", signal=array)
    rows = [{"row": str(i), "label": "ab"[i % 2], "patient": f"p{i // 2}", "report": f"beat {i}"} for i in range(11)]
    table = write_table(tmp_path / "t.csv", rows)
    manifest = build_ecg(
        tmp_path / "beats.npz",
        tmp_path / "out",
        labels=table,
        reports=table,
        leads=leads,
        source_rate=125,
        unit="none",
        **SMALL,
    )
    assert manifest.fields["ecg"].facts == {"leads": sorted(leads), "sample_rate": 125, "unit": None}
    for number, signal in enumerate(signals(manifest)):
        own = array[number].reshape(90, -1) if shape[-1] != 90 or len(shape) == 2 else array[number].T
        assert np.array_equal(signal, own[:, ::-1].astype(np.float32))
    assert labels(manifest)[3] == {"row": 3, "label": "b"}
    assert labels(manifest)[11] == {"row": 11}
    assert manifest.column("group").tolist()[-3:] == ["p4", "p5", "beats:11"]
    assert members(tmp_path / "out")["000000004.txt"] == b"beat 4"
    assert not manifest.rejected


def test_tables_name_a_record_with_its_ending_or_without(tmp_path):
    source = write_records(tmp_path / "in" / "deep", 3).parent
    rows = [
        {"file": "deep/r000", "label": "x", "patient": "7", "ward": "3"},
        {"file": "r001", "label": "y", "patient": "7", "ward": ""},
        {"file": "./deep/r002.dat", "label": "z", "patient": "8", "ward": ""},
    ]
    (tmp_path / "r.jsonl").write_text('{"file": "deep/r001.hea", "report": "sinus rhythm"}\n')
    table = write_table(source / "t.csv", rows)
    manifest = build_ecg(source, tmp_path / "out", labels=table, reports=tmp_path / "r.jsonl", split=ALL_TRAIN, **SMALL)
    assert not manifest.rejected
    assert labels(manifest)[0] == {"file": "deep/r000.hea", "label": "x", "ward": "3"}
    assert [own["label"] for own in labels(manifest)] == ["x", "y", "z"]
    assert manifest.column("group").tolist() == ["7", "7", "8"]
    assert (manifest.lengths("text") > 0).tolist() == [False, True, False]
    assert members(tmp_path / "out")["000000001.txt"] == b"sinus rhythm"
    assert sum(manifest.statistics["text"]["token_counts"]) == manifest.lengths("text").sum()


def test_a_group_overrules_the_patient_and_decides_the_split(tmp_path):
    source = write_records(tmp_path / "in", 12)
    rows = [{"file": f"r{i:03d}", "patient": f"p{i}", "group": f"g{i // 4}"} for i in range(12)]
    manifest = build_ecg(source, tmp_path / "out", labels=write_table(tmp_path / "t.csv", rows), **SMALL)
    assert manifest.column("group").tolist() == [f"g{i // 4}" for i in range(12)]
    assert labels(manifest)[5] == {"file": "r005.hea", "patient": "p5"}
    assert manifest.column("split").tolist() == [split_of(f"g{i // 4}", (0.8, 0.1, 0.1)) for i in range(12)]


def test_comments_of_the_header_are_labels(tmp_path):
    write_wfdb(tmp_path / "in", "a", heartbeats(1), ["I", "II"], comments=["Age: 63", "Dx: 426783006"])
    manifest = build_ecg(tmp_path / "in", tmp_path / "out")
    assert labels(manifest) == [{"file": "a.hea", "comments": ["Age: 63", "Dx: 426783006"]}]
    assert manifest.column("group").tolist() == ["a"]


@pytest.mark.parametrize("ending", ["hea", "edf", "csv"])
def test_pieces_tile_a_long_record(tmp_path, ending):
    signal, leads = heartbeats(1, 700), ["I", "II"]
    if ending == "hea":
        signal = write_wfdb(tmp_path / "in", "a", signal, leads)
    elif ending == "edf":
        write_edf(tmp_path / "in" / "a.edf", signal, leads, "mV")
    else:
        write_csv(tmp_path / "in" / "a.csv", signal, leads)
    table = write_table(tmp_path / "t.csv", [{"file": "a", "label": "x", "report": "one report"}])
    manifest = build_ecg(
        tmp_path / "in", tmp_path / "out", labels=table, max_seconds=3, source_rate=100, unit="mV", split=ALL_TRAIN
    )
    assert [len(own) for own in signals(manifest)] == [233, 233, 234]
    assert np.allclose(np.concatenate(signals(manifest)), signal, atol=1e-4)
    assert labels(manifest)[1] == {"file": f"a.{ending}", "label": "x", "part": 1, "start": 2.33}
    assert set(manifest.column("group")) == {"a"}
    assert (manifest.lengths("text") > 0).all()


def test_records_that_are_short_enough_are_no_pieces(tmp_path):
    write_wfdb(tmp_path / "in", "a", heartbeats(1), ["I", "II"])
    manifest = build_ecg(tmp_path / "in", tmp_path / "out", max_seconds=4)
    assert labels(manifest) == [{"file": "a.hea"}]


def test_a_zip_gives_the_same_samples_as_its_folder(tmp_path):
    source = write_records(tmp_path / "in" / "deep", 3).parent
    write_csv(source / "c.csv", heartbeats(9), ["I", "II"])
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(source.rglob("*.*"), reverse=True):
            archive.write(path, path.relative_to(source).as_posix())
    for name in ("in", "in.zip"):
        build_ecg(tmp_path / name, tmp_path / f"out-{name}", source_rate=100, unit="mV")
    assert len(load_manifest(tmp_path / "out-in")) == 4
    assert members(tmp_path / "out-in") == members(tmp_path / "out-in.zip")


def test_processes_do_not_change_a_byte(tmp_path):
    source = write_records(tmp_path / "in", 12)
    write_wfdb(source, "fast", heartbeats(3), ["I", "II"], fs=250)
    (source / "r004.dat").write_bytes(b"cut")
    rows = [{"file": f"r{i:03d}", "report": f"report {i} of rhythm"} for i in range(12)]
    table = write_table(tmp_path / "t.csv", rows)
    for processes in (1, 2):
        build_ecg(source, tmp_path / str(processes), labels=table, processes=processes, max_seconds=3, **SMALL)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_changed_inputs_are_noticed_on_a_half_built_folder(tmp_path):
    source = write_records(tmp_path / "in", 3)
    build_ecg(source, tmp_path / "out")
    plan = json.loads((tmp_path / "out" / "manifest.json").read_text())["origin"]
    (tmp_path / "out" / ".building").mkdir()
    (tmp_path / "out" / ".building" / "plan.json").write_text(json.dumps(plan | {"inputs": "other"}))
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(DataError, match="half-built with other inputs"):
        build_ecg(source, tmp_path / "out")


def test_statistics_are_those_of_the_observed_samples_of_the_training_split(tmp_path):
    source = write_records(tmp_path / "in", 20)
    write_wfdb(source, "alone", heartbeats(3) + 5, ["V1", "II"])
    flat = heartbeats(4)
    flat[:, 0] = 9.0
    write_csv(source / "flat.csv", flat, ["I", "II"])
    manifest = build_ecg(source, tmp_path / "out", source_rate=100, unit="mV", **SMALL)
    train = [own for own, s in zip(signals(manifest), manifest.column("split"), strict=True) if s == "train"]
    own = manifest.statistics["ecg"]
    assert 0 < len(train) < 22
    values = np.concatenate(train).astype(np.float64)
    assert np.allclose(own["mean"][:2], np.nanmean(values, axis=0)[:2], rtol=1e-6)
    assert np.allclose(own["std"][:2], np.nanstd(values, axis=0)[:2], rtol=1e-6)
    assert own["leads"]["flat"] == [1, 0, 0]
    assert own["leads"]["missing"] == [1, 0, 21]


def test_a_lead_that_training_never_saw_has_mean_0_and_deviation_1(tmp_path):
    write_wfdb(tmp_path / "in", "a", heartbeats(1), ["I", "II"])
    manifest = build_ecg(tmp_path / "in", tmp_path / "out", leads=STANDARD, split=ALL_TRAIN)
    own = manifest.statistics["ecg"]
    assert own["mean"][2:] == [0.0] * 10
    assert own["std"][2:] == [1.0] * 10
    assert own["std"][0] > 0.1


def test_short_gaps_are_bridged_and_longer_ones_make_a_lead_unobserved():
    lead = np.random.default_rng(0).standard_normal(2000)
    short, long, many = lead.copy(), lead.copy(), lead.copy()
    short[100:110], long[100:111], many[::90] = np.nan, np.nan, np.inf
    assert examine(lead, 100.0) == (pytest.approx(lead), "observed")
    bridged = examine(short, 100.0)
    assert bridged.condition == "observed"
    assert np.allclose(bridged.samples[99:111], np.linspace(lead[99], lead[110], 12))
    assert examine(long, 100.0).condition == "gaps"  # of 0.11 s
    assert examine(many, 100.0).condition == "gaps"  # of one sample, but more than 1 %
    assert examine(np.full(2000, np.nan), 100.0).condition == "gaps"


def test_clipping_is_long_runs_at_the_extremes():
    wave = np.sin(np.arange(1000) / 8)
    assert examine(wave, 100.0).condition == "observed"
    assert examine(wave.clip(-2, 0.9), 100.0).condition == "clipped"
    assert examine(wave.clip(-0.99, 2), 100.0).condition == "observed"  # short of 5 %
    spikes = np.random.default_rng(0).random(1000)
    spikes[::10] = 2.0
    assert examine(spikes, 100.0).condition == "observed"  # many, but never in a row
    assert examine(np.full(10, 3.0), 100.0).condition == "flat"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("i", "I"),
        ("MLII", "II"),
        ("ML2", "II"),
        ("AVR", "aVR"),
        ("ecg_i", "I"),
        ("Lead I", "I"),
        ("EKG V6", "V6"),
        ("ECG aVL", "aVL"),
        (" V 1 ", "V1"),
        ("DII", "II"),
        ("d3", "III"),
        ("MCL1", "V1"),
        ("lead-avf", "aVF"),
    ],
)
def test_spellings_of_leads(raw, name):
    assert lead_name(raw) == name


@pytest.mark.parametrize("raw", ["", "ECG", "V7", "-aVR", "I+II", "aV", "resp", "4"])
def test_what_is_no_lead_is_not_guessed(raw):
    with pytest.raises(DataError, match="unknown lead"):
        lead_name(raw)


def test_leads_have_one_order():
    assert in_order(["vz", "V6", "aVR", "II", "ECG", "I", "II"]) == ("I", "II", "aVR", "V6", "ECG", "vz")


@pytest.mark.parametrize(
    ("unit", "factor"), [("mV", 1), ("V", 1e3), ("µV", 1e-3), ("μV", 1e-3), ("uv", 1e-3), ("nV", 1e-6)]
)
def test_voltages_in_millivolts(unit, factor):
    assert millivolts(unit) == factor


def test_the_facts_and_statistics_are_read_back(tmp_path):
    write_wfdb(tmp_path / "in", "a", heartbeats(1), ["I", "II"])
    built, read = build_ecg(tmp_path / "in", tmp_path / "out"), load_manifest(tmp_path / "out")
    assert read.fields == built.fields
    assert read.statistics == built.statistics
    assert reasons(read) == {}
