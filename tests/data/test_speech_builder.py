import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
import soundfile

from mmpt.data.builders.sounds import count_clipped, cut_points
from mmpt.data.builders.speech import build_speech, summary_lines
from mmpt.data.decode import decode
from mmpt.data.split import split_of
from mmpt.errors import DataError
from tests.data.material import contents, members, prose, write_table

RATE = 8000
SMALL: dict[str, Any] = {"vocabulary": 300, "samples_per_shard": 5}


def tone(number, count=2400, rate=RATE, level=8000):
    """A 16-bit tone with a little noise."""
    noise = np.random.default_rng(number).standard_normal(count)
    return (level * np.sin(2 * np.pi * (200 + 30 * number) * np.arange(count) / rate) + 100 * noise).astype(np.int16)


def write_sound(path, samples, rate=RATE, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **settings)
    return path


def write_sounds(folder, count=12):
    """Tones in two folders, WAV and FLAC by turns, each a little longer than the last."""
    for i in range(count):
        write_sound(
            folder / ("two" if i % 2 else "one") / f"s{i:02d}.{('wav', 'flac')[i % 2]}", tone(i, 2400 + 100 * i)
        )
    return folder


def names_of(source):
    return sorted(path.relative_to(source).as_posix() for path in source.rglob("*.*"))


def told(tmp_path, count=12):
    source = write_sounds(tmp_path / "sounds", count)
    rows = [
        {"file": n, "text": prose(i, 4), "label": "ab"[i % 2], "group": f"g{i // 2}", "by": "me"}
        for i, n in enumerate(names_of(source))
    ]
    return source, rows, write_table(tmp_path / "table.csv", rows)


def sounds(folder):
    """Sample number -> int16 samples and rate."""
    found = {}
    for name, data in members(folder).items():
        if name.endswith((".flac", ".wav")):
            found[int(name.split(".")[0])] = soundfile.read(io.BytesIO(data), dtype="int16")
    return found


def labels_in(folder):
    return {int(name.split(".")[0]): json.loads(data) for name, data in members(folder).items() if "json" in name}


def test_sixteen_bit_recordings_keep_every_sample_and_the_first_folder_is_the_label(tmp_path):
    source = write_sounds(tmp_path / "sounds")
    manifest = build_speech(source, tmp_path / "out", **SMALL)
    assert set(manifest.fields) == {"speech", "labels"}
    field = manifest.fields["speech"]
    assert (field.kind, field.members, field.facts) == ("audio", ("flac", "wav"), {"sample_rate": RATE})
    found, labels = sounds(tmp_path / "out"), labels_in(tmp_path / "out")
    for number, name in enumerate(names_of(source)):
        samples, rate = found[number]
        assert rate == RATE
        assert np.array_equal(samples, soundfile.read(source / name, dtype="int16")[0])
        assert manifest.lengths("speech")[number] == len(samples)
        assert labels[number] == {"file": name, "label": name.split("/")[0]}
    assert sorted(manifest.column("group")) == [f"s{i:02d}" for i in range(12)]
    data = members(tmp_path / "out")["000000000.flac"]
    decoded, rate = decode(field, data)
    assert (decoded.dtype, decoded.ndim, rate) == (np.float32, 1, RATE)
    assert not manifest.rejected
    assert not (tmp_path / "out" / "tokenizer").exists()


def test_wav_storage_holds_the_same_samples(tmp_path):
    source = write_sounds(tmp_path / "sounds", 4)
    for storage in ("flac", "wav"):
        build_speech(source, tmp_path / storage, storage=storage, **SMALL)
    flac, wav = sounds(tmp_path / "flac"), sounds(tmp_path / "wav")
    assert all(np.array_equal(flac[number][0], wav[number][0]) for number in range(4))
    assert "000000000.wav" in members(tmp_path / "wav")
    assert soundfile.info(io.BytesIO(members(tmp_path / "wav")["000000000.wav"])).subtype == "PCM_16"


def test_one_table_gives_transcripts_labels_and_groups(tmp_path):
    source, rows, table = told(tmp_path)
    manifest = build_speech(source, tmp_path / "out", transcripts=table, labels=table, **SMALL)
    found, labels = members(tmp_path / "out"), labels_in(tmp_path / "out")
    for number, row in enumerate(rows):
        assert found[f"{number:09d}.txt"].decode() == row["text"]
        assert labels[number] == {"file": row["file"], "label": row["label"], "by": "me"}
        assert manifest.column("group")[number] == row["group"]
        assert manifest.column("split")[number] == split_of(row["group"], (0.8, 0.1, 0.1))
    assert manifest.lengths("text").min() > 1
    assert manifest.fields["text"].facts["mask"] == 4
    assert sum(manifest.statistics["text"]["token_counts"]) > 0


def test_a_file_beside_a_recording_is_its_transcript(tmp_path):
    source = write_sounds(tmp_path / "sounds")
    sides = {}
    for i, name in enumerate(names_of(source)[:9]):
        path = (source / name).with_suffix((".txt", ".lab", ".normalized.txt")[i % 3])
        path.write_text(f"\ufeff{prose(i, 3)}\n", encoding="utf-8")
        sides[name] = prose(i, 3)
    (source / "one" / "s00.original.txt").write_text("Dr. Sea")
    (source / "one" / "s04.txt").write_text("Mr. Wind")  # beside s04.normalized.txt
    (source / "README.txt").write_text("what this is")
    manifest = build_speech(source, tmp_path / "out", **SMALL)
    found, labels = members(tmp_path / "out"), labels_in(tmp_path / "out")
    texts = {labels[n]["file"]: found.get(f"{n:09d}.txt", b"").decode() for n in labels}
    assert {name: text for name, text in texts.items() if text} == sides
    assert not manifest.rejected


def test_a_table_of_transcripts_leaves_side_files_alone(tmp_path):
    source, _, table = told(tmp_path)
    (source / "one" / "s00.txt").write_text("something else")
    build_speech(source, tmp_path / "out", transcripts=table, **SMALL)
    assert members(tmp_path / "out")["000000000.txt"].decode() == prose(0, 4)


def test_a_zip_gives_the_same_samples_as_its_folder(tmp_path):
    source = write_sounds(tmp_path / "sounds", 6)
    for i, name in enumerate(names_of(source)):
        (source / name).with_suffix(".txt").write_text(prose(i, 3))
    with zipfile.ZipFile(tmp_path / "sounds.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(source.rglob("*.*"), reverse=True):
            archive.write(path, path.relative_to(source).as_posix())
    for name in ("sounds", "sounds.zip"):
        build_speech(tmp_path / name, tmp_path / f"out-{name}", **SMALL)
    assert members(tmp_path / "out-sounds") == members(tmp_path / "out-sounds.zip")


def test_processes_do_not_change_a_byte(tmp_path):
    source, _, table = told(tmp_path)
    write_sound(source / "long.wav", tone(1, 3 * 12000), 12000)
    (source / "bad.wav").write_bytes(b"no sound")
    settings = SMALL | {"transcripts": table, "max_seconds": 1.0, "sample_rate": RATE}
    for processes in (1, 2):
        build_speech(source, tmp_path / str(processes), processes=processes, **settings)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_channels_are_averaged_and_counted(tmp_path):
    left, right = tone(1), tone(2)
    write_sound(tmp_path / "sounds" / "a.wav", np.stack([left, right], axis=1))
    write_sound(tmp_path / "sounds" / "b.wav", left)
    manifest = build_speech(tmp_path / "sounds", tmp_path / "out", **SMALL)
    samples = sounds(tmp_path / "out")[0][0]
    assert np.abs(samples - (left.astype(float) + right) / 2).max() <= 0.5
    assert manifest.statistics["speech"]["stereo"] == 1


def test_other_rates_are_resampled_to_the_first_files(tmp_path):
    source = tmp_path / "sounds"
    (source / "0").mkdir(parents=True)
    (source / "0" / "bad.wav").write_bytes(b"not the first that can be read")
    for i, rate in enumerate((8000, 16000, 44100, 8000)):
        seconds = np.arange(rate) / rate
        write_sound(source / f"s{i}.wav", np.int16(9000 * np.sin(2 * np.pi * 440 * seconds)), rate)
    manifest = build_speech(source, tmp_path / "out", **SMALL)
    expected = 9000 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    for samples, rate in sounds(tmp_path / "out").values():
        assert (rate, len(samples)) == (8000, 8000)
        assert np.abs(samples[200:-200] - expected[200:-200]).max() < 90  # 1 % of the level
    own = manifest.statistics["speech"]
    assert own["resampled"] == {"16000": 1, "44100": 1}
    assert own["rate_from"] == "s0.wav"
    assert manifest.fields["speech"].facts == {"sample_rate": 8000}
    chosen = build_speech(source, tmp_path / "chosen", sample_rate=16000, **SMALL)
    assert chosen.statistics["speech"]["resampled"] == {"8000": 2, "44100": 1}
    assert chosen.fields["speech"].facts == {"sample_rate": 16000}


def test_every_kind_of_file_is_read(tmp_path):
    source = tmp_path / "sounds"
    for ending, form in (("wav", {}), ("flac", {}), ("ogg", {}), ("mp3", {}), ("opus", {"subtype": "OPUS"})):
        settings = {"format": "OGG", **form} if ending == "opus" else form
        write_sound(source / f"{ending}.{ending}", tone(3, 16000, 16000), 16000, **settings)
    manifest = build_speech(source, tmp_path / "out", **SMALL)
    assert len(manifest) == 5
    assert manifest.lengths("speech").tolist() == [16000] * 5
    assert not manifest.rejected
    power = [np.square(samples.astype(float)).mean() for samples, _ in sounds(tmp_path / "out").values()]
    assert np.ptp(power) < 0.05 * np.mean(power)


def test_long_recordings_are_cut_into_pieces_that_tile_them(tmp_path):
    speech = tone(5, 5 * RATE)
    speech[14800:15100] = 0  # within the last tenth of the first third's end, which is 13333
    speech[12800:13120] = 0
    source = tmp_path / "sounds"
    write_sound(source / "a" / "long.wav", speech)
    write_sound(source / "a" / "short.wav", tone(6, RATE))
    manifest = build_speech(source, tmp_path / "out", max_seconds=2.0, **SMALL)
    found, labels = sounds(tmp_path / "out"), labels_in(tmp_path / "out")
    assert np.array_equal(np.concatenate([found[number][0] for number in range(3)]), speech)
    lengths = manifest.lengths("speech")
    assert lengths[:3].max() <= 2 * RATE
    assert lengths[:3].min() >= 0.9 * 5 * RATE // 3
    assert 12800 < lengths[0] < 13120
    start = [number / RATE for number in (0, lengths[0], lengths[0] + lengths[1])]
    assert [labels[number] for number in range(3)] == [
        {"file": "a/long.wav", "label": "a", "part": part, "start": start[part - 1]} for part in (1, 2, 3)
    ]
    assert labels[3] == {"file": "a/short.wav", "label": "a"}
    assert manifest.column("group").tolist() == ["long"] * 3 + ["short"]
    assert len(set(manifest.column("split")[:3])) == 1


def test_pieces_of_a_resampled_recording_tile_it_too(tmp_path):
    write_sound(tmp_path / "sounds" / "long.wav", tone(5, 50001, 11025), 11025)
    whole = build_speech(tmp_path / "sounds", tmp_path / "whole", sample_rate=RATE, **SMALL)
    cut = build_speech(tmp_path / "sounds", tmp_path / "cut", sample_rate=RATE, max_seconds=1.0, **SMALL)
    pieces = sounds(tmp_path / "cut")
    joined = np.concatenate([pieces[number][0] for number in sorted(pieces)])
    assert np.array_equal(joined, sounds(tmp_path / "whole")[0][0])
    assert len(joined) == -(-50001 * RATE // 11025)
    assert cut.lengths("speech").max() <= RATE
    assert whole.statistics["speech"]["resampled"] == cut.statistics["speech"]["resampled"] == {"11025": 1}


@pytest.mark.parametrize("count", [8001, 8800, 8801, 16000, 79999])
def test_no_cut_makes_a_piece_longer_than_the_limit_or_very_short(tmp_path, count):
    write_sound(tmp_path / "sounds" / "a.wav", tone(1, count))
    lengths = build_speech(tmp_path / "sounds", tmp_path / "out", max_seconds=1.0, **SMALL).lengths("speech")
    assert lengths.sum() == count
    assert lengths.max() <= RATE
    assert lengths.min() >= 0.4 * RATE


def test_a_cut_falls_into_the_quietest_window_of_a_stretchs_last_tenth():
    samples = np.full(20000, 1000, dtype=np.int16)
    samples[5000:5400] = 0  # quieter, but not within the last tenth
    samples[9300:9460] = 10
    assert cut_points(samples, 8000, 2) == [0, 9380, 20000]


def test_statistics_count_duration_silence_and_clipping(tmp_path):
    source = tmp_path / "sounds"
    quiet = np.zeros(RATE, dtype=np.int16)
    quiet[: RATE // 4] = tone(1, RATE // 4)
    clipped = tone(2, RATE // 2, level=20000)
    clipped[100:105], clipped[200:202], clipped[300:303] = 32767, 32767, -32768  # two in a row are a peak
    quiet[10:13] = 32767
    write_sound(source / "a.wav", quiet)
    write_sound(source / "b.wav", clipped)
    for i in range(4):
        write_sound(source / f"c{i}.wav", tone(i, RATE * 2))
    own = build_speech(source, tmp_path / "out", **SMALL).statistics["speech"]
    assert own["duration"] == {"total": 9.5, "min": 0.5, "median": 2.0, "p95": 2.0, "max": 2.0}
    assert own["silent"] == pytest.approx(37 / 475, abs=1 / 475)  # of 475 windows, 37.5 are zeros
    assert own["clipped"] == {"samples": 11, "files": 2}
    assert (own["stereo"], own["resampled"], own["files"]) == (0, {}, 6)


def test_silence_begins_sixty_decibels_below_full_scale(tmp_path):
    source = tmp_path / "sounds"
    for name, level in (("loud", 34), ("soft", 32)):  # full scale / 1000 is 32.8
        write_sound(source / f"{name}.wav", np.full(RATE, level, dtype=np.int16))
    own = build_speech(source, tmp_path / "out", **SMALL).statistics["speech"]
    assert own["silent"] == 0.5


def test_clipping_is_looked_for_in_every_channel_of_the_source():
    samples = np.zeros((10, 2), dtype=np.float32)
    samples[2:5, 0], samples[6:8, 1], samples[9, 1] = 1.0, -1.0, -1.0
    assert count_clipped(samples) == 3


def test_what_is_said_of_a_build(tmp_path):
    source = tmp_path / "sounds"
    write_sound(source / "a.wav", tone(1, RATE))
    write_sound(source / "b.wav", np.full((4 * RATE, 2), 32767, dtype=np.int16), 2 * RATE)
    lines = summary_lines(build_speech(source, tmp_path / "out", **SMALL))
    assert lines[0] == "0.00 h at 8000 Hz (of a.wav) in pieces of 1.00 to 2.00 s, median 1.00 s"
    assert lines[1] == "silent (20 ms below -60 dBFS): 0.0% of the time"
    assert lines[2:] == [
        "clipped: 64000 samples of 1 files",
        "folded to mono: 1 files",
        f"  {source}/b.wav: 2 channels, averaged",
        "resampled: 1 files from 16000 Hz",
        f"  {source}/b.wav: sampled at 16000 Hz, not 8000",
    ]


def test_the_first_files_of_other_rates_are_named_once_each(tmp_path):
    source = tmp_path / "sounds"
    write_sound(source / "a.wav", tone(1, RATE))
    for number in range(7):
        write_sound(source / f"b{number}.wav", tone(2, 4 * RATE), 2 * RATE)
    settings = {**SMALL, "max_seconds": 1.0, "samples_per_shard": 3}
    own = build_speech(source, tmp_path / "out", **settings).statistics["speech"]
    assert own["resampled"] == {"16000": 7}
    named = [f"{source}/b{number}.wav: sampled at 16000 Hz, not 8000" for number in range(5)]
    assert own["notes"] == {"resampled": named}


def killed(*_):
    raise KeyboardInterrupt


def test_the_same_call_finishes_what_a_kill_left_half_built(tmp_path):
    source, _, table = told(tmp_path)
    settings = SMALL | {"transcripts": table, "max_seconds": 1.0}
    build_speech(source, tmp_path / "whole", **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmpt.data.builders.steps.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            build_speech(source, tmp_path / "killed", **settings)
    (tmp_path / "killed" / "shard-000001.tar").unlink()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    build_speech(source, tmp_path / "killed", **settings)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("changed", ["one/s00.wav", "one/s00.txt"])
def test_a_recording_or_side_file_that_changed_is_noticed_on_a_half_built_folder(tmp_path, changed):
    source = write_sounds(tmp_path / "sounds")
    for i, name in enumerate(names_of(source)):
        (source / name).with_suffix(".txt").write_text(prose(i, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmpt.data.builders.steps.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            build_speech(source, tmp_path / "out", **SMALL)
    with (source / changed).open("ab") as file:
        file.write(b"  ")
    with pytest.raises(DataError, match="half-built with other inputs"):
        build_speech(source, tmp_path / "out", **SMALL)
