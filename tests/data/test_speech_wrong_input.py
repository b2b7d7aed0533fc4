import io
import json
import zipfile

import numpy as np
import pytest
import soundfile

from mmpt.data.builders.speech import build_speech
from mmpt.errors import DataError
from tests.data.material import contents, members, prose, write_table
from tests.data.test_speech_builder import RATE, SMALL, told, tone, write_sound, write_sounds


def reasons(manifest):
    """What was left out, by the file's name."""
    return {entry["input"].rsplit("/", 1)[-1]: entry["reason"] for entry in manifest.rejected}


def sound_bytes(samples, form, rate=RATE, subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def with_good(tmp_path, name, data):
    """One bad file between two good ones."""
    source = tmp_path / "sounds"
    write_sound(source / "a.wav", tone(1))
    write_sound(source / "z.wav", tone(2))
    (source / name).write_bytes(data)
    return source


FLAC = sound_bytes(tone(1, 20000), "FLAC")
WAV = sound_bytes(tone(1, 20000), "WAV")
OGG = sound_bytes(tone(1, 40000), "OGG")
HOLED = np.where(np.arange(1000) % 100, 0.1, np.nan)
BAD = {
    "zero.wav": (sound_bytes(tone(1, 0), "WAV"), "zero length: there is no sample in it"),
    "empty.flac": (b"", "an empty file"),
    "short.wav": (sound_bytes(tone(1, 199), "WAV"), "24.9 ms of sound, at least 25 ms are needed"),
    "nan.wav": (sound_bytes(HOLED, "WAV", subtype="FLOAT"), "10 of 1000 values are not finite (NaN or infinite)"),
    "inf.wav": (
        sound_bytes(np.full(1000, np.inf), "WAV", subtype="FLOAT"),
        "1000 of 1000 values are not finite (NaN or infinite)",
    ),
    "scaled.wav": (
        sound_bytes(np.full(1000, 20000.0), "WAV", subtype="FLOAT"),
        "values up to 2e+04, expected -1 to 1; scale them",
    ),
    "mute.wav": (sound_bytes(np.zeros(1000), "WAV"), "silent: every sample is 0"),
    "words.mp3": (b"hello world" * 100, "undecodable sound (Format not recognised)"),
    "half.flac": (FLAC[: len(FLAC) // 2], "undecodable sound (Error : flac decoder lost sync)"),
    "half.wav": (WAV[:20044], "damaged: the header says 40044 bytes, the file has 20044"),
    "holed.ogg": (OGG[:9000] + bytes(400) + OGG[9400:], "damaged: the header says 40000 samples, "),
    "odd.wav": (sound_bytes(tone(1, 20000), "WAV", 47999), "sampled at 47999 Hz, which has too little in common with"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recording_is_listed_and_the_rest_is_built(tmp_path, name):
    data, reason = BAD[name]
    manifest = build_speech(with_good(tmp_path, name, data), tmp_path / "out", **SMALL)
    found = reasons(manifest)
    assert list(found) == [name]
    assert found[name].startswith(reason)
    assert manifest.statistics["rejected"] == 1
    assert len(manifest) == 2


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recording_alone_leaves_nothing_behind(tmp_path, name):
    source = tmp_path / "sounds"
    source.mkdir()
    (source / name).write_bytes(BAD[name][0])
    with pytest.raises(DataError, match=rf"not one good sample.*{name}: "):
        build_speech(source, tmp_path / "out", sample_rate=RATE, **SMALL)
    assert not (tmp_path / "out").exists()


def test_reasons_have_no_addresses_so_that_manifests_agree(tmp_path):
    source = with_good(tmp_path, "words.wav", b"hello world" * 100)
    for out in ("1", "2"):
        build_speech(source, tmp_path / out, **SMALL)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert "0x" not in (tmp_path / "1" / "manifest.json").read_text()


def test_a_streamed_wav_without_its_size_is_read(tmp_path):
    data = bytearray(WAV)
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    manifest = build_speech(with_good(tmp_path, "m.wav", bytes(data)), tmp_path / "out", **SMALL)
    assert manifest.lengths("speech").tolist() == [2400, 20000, 2400]


def test_rows_and_side_files_without_audio_are_listed_by_name(tmp_path):
    source, rows, _ = told(tmp_path)
    lone = [
        {"file": "gone.wav", "text": "nobody says this", "label": "a", "group": "", "by": ""},
        {"file": "lost.wav", "text": "", "label": "a", "group": "", "by": ""},
        {"file": "", "text": "nameless", "label": "", "group": "", "by": ""},
        rows[0],
    ]
    table = write_table(tmp_path / "t.csv", rows[:8] + lone)
    manifest = build_speech(source, tmp_path / "out", transcripts=table, **SMALL)
    found = reasons(manifest)
    assert found.pop("t.csv:10") == "'gone.wav': a transcript without audio: there is no such recording"
    assert found.pop("t.csv:11") == "'lost.wav': there is no such recording"
    assert "no 'file'" in found.pop("t.csv:12")
    assert "has a row already" in found.pop("t.csv:13")
    assert not found
    assert len(manifest) == 12
    assert (manifest.column("text.offset") >= 0).sum() == 8


def test_a_side_file_without_audio_is_listed_by_name(tmp_path):
    source = write_sounds(tmp_path / "sounds")
    for i, path in enumerate(sorted(source.rglob("s*.*"))):
        path.with_suffix(".txt").write_text(prose(i, 3))
    (source / "one" / "s00.txt").write_bytes(b"\xff\xfe")
    (source / "one" / "s02.txt").write_text(" \n")
    for name in ("one/s01.txt", "lost.lab"):  # s01 lies in the other folder
        (source / name).write_text("nobody says this")
    manifest = build_speech(source, tmp_path / "out", **SMALL)
    why = "a transcript without audio: no recording beside it has its name"
    assert reasons(manifest) == {
        "s00.txt": "not UTF-8 text (byte 0xff at 0)",
        "s01.txt": why,
        "lost.lab": why,
        "s02.txt": "an empty transcript; the recording is kept without",
    }
    assert len(manifest) == 12
    assert (manifest.column("text.offset") >= 0).sum() == 10


def test_a_bare_name_fits_where_it_is_unambiguous(tmp_path):
    source = tmp_path / "sounds"
    for i, name in enumerate(("a/one.wav", "b/one.wav", "b/two.wav")):
        write_sound(source / name, tone(i))
    table = write_table(tmp_path / "t.csv", [{"file": "one.wav", "label": "x"}, {"file": "two.wav", "label": "y"}])
    manifest = build_speech(source, tmp_path / "out", labels=table, **SMALL)
    found = members(tmp_path / "out")
    assert [json.loads(found[f"{i:09d}.json"])["label"] for i in range(3)] == ["a", "b", "y"]
    assert "several recordings have this name" in manifest.rejected[0]["reason"]


def test_a_long_recording_with_a_transcript_is_not_cut_but_listed(tmp_path):
    source, rows, _ = told(tmp_path)
    write_sound(source / "long.wav", tone(1, 4 * RATE))
    write_sound(source / "mute.wav", tone(2, 4 * RATE))
    table = write_table(tmp_path / "t.csv", [*rows, rows[0] | {"file": "long.wav"}])
    manifest = build_speech(source, tmp_path / "out", transcripts=table, max_seconds=2.0, **SMALL)
    assert reasons(manifest)["long.wav"].startswith(
        "longer than 2 s, and a recording with a transcript can't be cut; raise the limit"
    )
    assert len(manifest) == 12 + 3  # the one without a transcript is cut


def test_a_silent_piece_is_left_out_alone(tmp_path):
    samples = tone(1, 4 * RATE)
    samples[: 2 * RATE] = 0
    write_sound(tmp_path / "sounds" / "a.wav", samples)
    manifest = build_speech(tmp_path / "sounds", tmp_path / "out", max_seconds=1.0, **SMALL)
    assert reasons(manifest) == {"a.wav (part 1 of 5)": "silent: every sample is 0"} | {
        "a.wav (part 2 of 5)": "silent: every sample is 0"
    }
    assert len(manifest) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sample_rate": 0}, "sample_rate must be 1000 to 192000 Hz, got 0"),
        ({"max_seconds": 0.5}, "max_seconds must be at least 1, got 0.5"),
        ({"max_seconds": float("nan")}, "max_seconds must be at least 1, got nan"),
        ({"storage": "mp3"}, "storage is flac or wav, got 'mp3'"),
        ({"processes": 0}, "processes"),
        ({"transcripts": "gone.csv"}, "gone.csv"),
        ({"labels": "labels.xlsx"}, r"labels\.xlsx: expected a \.csv or \.jsonl"),
        ({"split": (0.5, 0.1, 0.1)}, "split"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, words):
    source = write_sounds(tmp_path / "sounds", 2)
    with pytest.raises(DataError, match=words):
        build_speech(source, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_sources_and_tables_of_the_wrong_kind_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match=r"no recording in it \(\.wav, \.flac, \.ogg, \.opus, \.mp3\)"):
        build_speech(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="not a readable zip"):
        build_speech(tmp_path / "broken.zip", tmp_path / "out")
    with pytest.raises(DataError, match=r"expected a folder of recordings or a \.zip, found nothing"):
        build_speech(tmp_path / "gone", tmp_path / "out")
    source = write_sounds(tmp_path / "sounds", 2)
    nameless = write_table(tmp_path / "t.csv", [{"name": "s00.wav", "text": "x"}])
    with pytest.raises(DataError, match="no 'file' column; it has name, text"):
        build_speech(source, tmp_path / "out", transcripts=nameless)
    textless = write_table(tmp_path / "u.csv", [{"file": "s00.wav", "words": "x"}])
    with pytest.raises(DataError, match="no 'text' or 'transcript' column; it has file, words"):
        build_speech(source, tmp_path / "out", transcripts=textless)
    assert not (tmp_path / "out").exists()


def test_other_files_are_listed_and_notes_are_not(tmp_path):
    source = write_sounds(tmp_path / "sounds", 2)
    for name in ("tape.m4a", "notes.md", "list.csv", "LICENSE.txt", ".DS_Store"):
        (source / name).write_bytes(b"x")
    manifest = build_speech(source, tmp_path / "out", **SMALL)
    assert reasons(manifest) == {"tape.m4a": "not one of .wav, .flac, .ogg, .opus, .mp3"}


def test_without_a_readable_recording_there_is_no_rate(tmp_path):
    source = tmp_path / "sounds"
    source.mkdir()
    (source / "a.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"none of 1 recordings can be read; the first: .*a\.wav: undecodable"):
        build_speech(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_member_of_a_zip_is_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "sounds.zip", "w") as archive:
        archive.writestr("a.wav", sound_bytes(tone(1), "WAV"))
        archive.writestr("b.wav", sound_bytes(tone(2), "WAV"))
    data = bytearray((tmp_path / "sounds.zip").read_bytes())
    data[data.index(b"b.wav") + 100] ^= 0xFF
    (tmp_path / "sounds.zip").write_bytes(data)
    manifest = build_speech(tmp_path / "sounds.zip", tmp_path / "out", **SMALL)
    assert reasons(manifest)["b.wav"].startswith("can't be read from the zip (Bad CRC-32")
    assert len(manifest) == 1
