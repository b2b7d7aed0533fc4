import json

import pytest
from PIL import Image

from mmpt.cli import main
from mmpt.data.inspect import inspect_folder
from mmpt.data.manifest import load_manifest, save_manifest
from mmpt.data.writer import ShardWriter
from mmpt.errors import DataError
from tests.data.material import picture, prose


@pytest.fixture
def folder(tmp_path):
    with ShardWriter(tmp_path / "out", samples_per_shard=5) as writer:
        for i in range(12):
            item = {"image": picture(i), "text": prose(i, 3 + i), "labels": {"label": "ab"[i % 3 == 0]}}
            writer.write(item | {"__group__": f"g{i // 4}"})
    return tmp_path / "out"


def place(folder, number, field):
    manifest = load_manifest(folder)
    row = manifest.samples.to_pylist()[number]
    return folder / manifest.shards[row["shard"]].name, row[f"{field}.offset"], row[f"{field}.size"]


def test_a_sound_data_set_has_no_problems_and_is_described(folder):
    inspection = inspect_folder(folder)
    report = inspection.report()
    assert inspection.problems == ()
    assert inspection.labels == {"a": 8, "b": 4}
    assert len(inspection.samples) == 3
    for words in ("12 samples in 3 tars", "groups: 3, the largest has 4", "labels: 2: a 8, b 4", "24 x 18 pixels"):
        assert words in report
    assert prose(0, 3) in report
    assert "no problems" in report
    assert sum(line.startswith("  |") for line in report.splitlines()) == 1


def test_a_flipped_byte_is_found_with_shard_and_member(folder):
    path, offset, _ = place(folder, 7, "text")
    data = bytearray(path.read_bytes())
    data[offset + 2] ^= 1
    path.write_bytes(data)
    found = {entry["input"]: entry["reason"] for entry in inspect_folder(folder).problems}
    assert set(found) == {"shard-000001.tar", "shard-000001.tar: 000000007: text"}
    assert "sha256" in found["shard-000001.tar"]
    assert "crc32" in found["shard-000001.tar: 000000007: text"]


def test_a_cut_a_missing_and_a_strange_tar_are_found(folder):
    path, offset, _ = place(folder, 3, "text")
    path.write_bytes(path.read_bytes()[: offset + 2])
    (folder / "shard-000002.tar").unlink()
    (folder / "other.tar").write_bytes(b"")
    found = {entry["input"]: entry["reason"] for entry in inspect_folder(folder).problems}
    assert "the manifest says" in found["shard-000000.tar"]
    assert "cut short" in found["shard-000000.tar: 000000003: text"]
    assert "cut short" in found["shard-000000.tar: 000000004: image"]
    assert found["shard-000002.tar"] == "the file is missing"
    assert "does not know" in found["other.tar"]


def test_what_does_not_decode_is_found_though_its_checksum_is_right(folder):
    manifest = load_manifest(folder)
    column = manifest.samples.column_names.index
    samples = manifest.samples
    for part in ("offset", "size", "crc32"):
        values = samples.column(f"text.{part}")
        samples = samples.set_column(column(f"image.{part}"), f"image.{part}", values)
    save_manifest(type(manifest)(folder, manifest.fields, manifest.shards, samples, manifest.statistics))
    problems = inspect_folder(folder).problems
    assert len(problems) == 12
    assert problems[0] == {"input": "shard-000000.tar: 000000000: image", "reason": "not a PNG, JPEG or WebP picture"}


def test_a_group_in_two_splits_is_found(folder):
    manifest = load_manifest(folder)
    import pyarrow

    splits = ["train"] * 11 + ["test"]
    samples = manifest.samples.set_column(3, "split", pyarrow.array(splits))
    save_manifest(type(manifest)(folder, manifest.fields, manifest.shards, samples, manifest.statistics))
    assert [entry["reason"] for entry in inspect_folder(folder).problems] == ["group 'g2' is in 2 splits"]


def test_the_contact_sheet_shows_the_pictures(folder, tmp_path):
    inspection = inspect_folder(folder, contact_sheet=tmp_path / "sheets" / "all.png")
    assert inspection.contact_sheet == tmp_path / "sheets" / "all.png"
    with Image.open(tmp_path / "sheets" / "all.png") as sheet:
        assert sheet.size == (8 * 96, 2 * 110)
        assert picture(0).getpixel((0, 17)) in {sheet.getpixel((x, y)) for x in range(96) for y in range(96)}


def test_without_pictures_there_is_no_contact_sheet(tmp_path):
    with ShardWriter(tmp_path / "out") as writer:
        writer.write({"text": "x"})
    assert inspect_folder(tmp_path / "out", contact_sheet=tmp_path / "a.png").contact_sheet is None
    assert not (tmp_path / "a.png").exists()


def test_processes_find_the_same(folder):
    path, offset, _ = place(folder, 7, "text")
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    assert inspect_folder(folder, processes=2).problems == inspect_folder(folder).problems


def test_a_changed_tokenizer_is_found(tmp_path):
    from mmpt.data.builders.text import build_text
    from tests.data.material import write_jsonl

    build_text([write_jsonl(tmp_path / "a.jsonl", 20)], tmp_path / "out", vocabulary=320)
    assert not inspect_folder(tmp_path / "out").problems
    file = tmp_path / "out" / "tokenizer" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert "not the tokenizer" in inspect_folder(tmp_path / "out").problems[0]["reason"]


def test_the_exit_code_tells_problems(folder, capsys):
    command = ["inspect", str(folder), "--processes", "1"]
    assert main(command) == 0
    (folder / "shard-000001.tar").unlink()
    assert main(command) == 1
    assert "shard-000001.tar: the file is missing" in capsys.readouterr().out
    (folder / "manifest.json").write_text("{")
    assert main(command) == 2
    with pytest.raises(DataError, match="not a manifest"):
        inspect_folder(folder)
