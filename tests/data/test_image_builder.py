import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmpt.cli import main
from mmpt.data.builders.images import build_images
from mmpt.data.split import split_of
from mmpt.errors import DataError
from tests.data.material import contents, members, picture, picture_bytes, write_pictures, write_table

SMALL: dict[str, Any] = {"vocabulary": 300, "samples_per_shard": 10}


def captioned(tmp_path, count=30):
    source = write_pictures(tmp_path / "pictures", count)
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.*"))
    rows = [
        {"file": n, "caption": f"a disc number {i}", "label": "ab"[i % 2], "group": f"g{i // 3}", "by": "me"}
        for i, n in enumerate(names)
    ]
    return source, rows, write_table(tmp_path / "table.csv", rows)


def test_bytes_pass_unchanged_and_the_first_folder_is_the_label(tmp_path):
    source = write_pictures(tmp_path / "pictures", 12)
    manifest = build_images(source, tmp_path / "out", **SMALL)
    found = members(tmp_path / "out")
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.*"))
    assert len(manifest) == 12
    assert set(manifest.fields) == {"image", "labels"}
    for number, name in enumerate(names):
        key = f"{number:09d}"
        assert found[f"{key}{Path(name).suffix}"] == (source / name).read_bytes()
        assert json.loads(found[f"{key}.json"]) == {"file": name, "label": name.split("/")[0]}
    assert manifest.column("group").tolist() == [Path(name).stem for name in names]
    assert not (tmp_path / "out" / "tokenizer").exists()


def test_one_table_gives_captions_labels_and_groups(tmp_path):
    source, rows, table = captioned(tmp_path)
    manifest = build_images(source, tmp_path / "out", captions=table, labels=table, **SMALL)
    found = members(tmp_path / "out")
    assert not manifest.rejected
    for number, row in enumerate(rows):
        assert found[f"{number:09d}.txt"].decode() == row["caption"]
        assert json.loads(found[f"{number:09d}.json"]) == {"file": row["file"], "label": row["label"], "by": "me"}
        assert manifest.column("group")[number] == row["group"]
        assert manifest.column("split")[number] == split_of(row["group"], (0.8, 0.1, 0.1))
    assert manifest.lengths("text").min() > 1
    assert manifest.fields["text"].facts["mask"] == 4


def test_a_zip_gives_the_same_samples_as_its_folder(tmp_path):
    source, _, table = captioned(tmp_path)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(source.rglob("*.*"), reverse=True):
            archive.write(path, path.relative_to(source).as_posix())
        archive.writestr("__MACOSX/dog/._p000.png", b"x")
    for name in ("pictures", "pictures.zip"):
        build_images(tmp_path / name, tmp_path / f"out-{name}", captions=table, **SMALL)
    assert members(tmp_path / "out-pictures") == members(tmp_path / "out-pictures.zip")


def test_processes_do_not_change_a_byte(tmp_path):
    source, _, table = captioned(tmp_path)
    (source / "bad.png").write_bytes(b"no")
    for processes in (1, 3):
        build_images(source, tmp_path / str(processes), captions=table, size=12, processes=processes, **SMALL)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_size_shrinks_the_shorter_side_and_never_enlarges(tmp_path):
    source = tmp_path / "pictures"
    source.mkdir()
    for name, shape in (("wide.png", (40, 20)), ("tall.jpg", (20, 40)), ("small.png", (8, 6))):
        picture(1, *shape).save(source / name)
    build_images(source, tmp_path / "out", size=10, **SMALL)
    found = members(tmp_path / "out")
    Path(tmp_path / "x").mkdir()
    sizes = {}
    for name, data in found.items():
        if not name.endswith("json"):
            (tmp_path / "x" / name).write_bytes(data)
            with Image.open(tmp_path / "x" / name) as opened:
                sizes[json.loads(found[name.split(".")[0] + ".json"])["file"]] = opened.size
    assert sizes == {"wide.png": (20, 10), "tall.jpg": (10, 20), "small.png": (8, 6)}
    assert found["000000000.png"] == (source / "small.png").read_bytes()


def test_statistics_are_those_of_the_training_pixels(tmp_path):
    source = write_pictures(tmp_path / "pictures", 30)
    manifest = build_images(source, tmp_path / "out", **SMALL)
    names = sorted(path for path in source.rglob("*.*"))
    train = [
        np.asarray(Image.open(n).convert("RGB")) / 255
        for n, s in zip(names, manifest.column("split"), strict=True)
        if s == "train"
    ]
    pixels = np.concatenate([image.reshape(-1, 3) for image in train])
    assert 0 < len(train) < 30
    assert np.allclose(manifest.statistics["image"]["mean"], pixels.mean(0))
    assert np.allclose(manifest.statistics["image"]["std"], pixels.std(0))
    assert manifest.statistics["image"]["width"] == {"min": 24, "median": 24, "max": 24}


def test_bad_pictures_and_rows_are_listed_and_the_rest_is_built(tmp_path):
    source, rows, _ = captioned(tmp_path, 12)
    whole = picture_bytes(1)
    bad = {"cut.png": whole[:60], "text.jpg": b"hello", "empty.webp": b"", "gif.png": b"GIF89a" + b"\0" * 40}
    for name, data in bad.items():
        (source / name).write_bytes(data)
    (source / "photo.heic").write_bytes(b"x")
    (source / "notes.txt").write_text("mine")
    extra = [
        {"file": "gone.png", "caption": "x", "label": "", "group": "", "by": ""},
        {"file": rows[0]["file"], "caption": "again", "label": "", "group": "", "by": ""},
        {"file": "", "caption": "nameless", "label": "", "group": "", "by": ""},
    ]
    table = write_table(tmp_path / "bad.csv", rows[:6] + extra)
    manifest = build_images(source, tmp_path / "out", captions=table, **SMALL)
    found = {Path(entry["input"]).name: entry["reason"] for entry in manifest.rejected}
    assert found.pop("cut.png").startswith("undecodable picture (")
    for name in ("text.jpg", "empty.webp", "gif.png"):
        assert found.pop(name) == "not a PNG, JPEG or WebP picture"
    assert "not one of .png" in found.pop("photo.heic")
    assert found.pop("bad.csv:8") == "'gone.png': there is no such picture"
    assert "has a row already" in found.pop("bad.csv:9")
    assert "no 'file'" in found.pop("bad.csv:10")
    assert not found
    assert manifest.statistics["rejected"] == 8
    assert len(manifest) == 12
    assert (manifest.column("text.offset") >= 0).sum() == 6


def test_a_bare_name_fits_where_it_is_unambiguous(tmp_path):
    source = tmp_path / "pictures"
    for name in ("a/one.png", "b/one.png", "b/two.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(picture_bytes(len(name)))
    table = write_table(tmp_path / "t.csv", [{"file": "one.png", "label": "x"}, {"file": "two.png", "label": "y"}])
    manifest = build_images(source, tmp_path / "out", labels=table, **SMALL)
    found = members(tmp_path / "out")
    assert [json.loads(found[f"{i:09d}.json"])["label"] for i in range(3)] == ["a", "b", "y"]
    assert "several pictures have this name" in manifest.rejected[0]["reason"]


def test_a_json_lines_table_is_read(tmp_path):
    source = write_pictures(tmp_path / "pictures", 4)
    (tmp_path / "t.jsonl").write_text('{"file": "./dog/p000.png", "label": 7, "tags": ["a"]}\nnope\n')
    manifest = build_images(source, tmp_path / "out", labels=tmp_path / "t.jsonl", **SMALL)
    labels = [json.loads(data) for name, data in members(tmp_path / "out").items() if name.endswith("json")]
    assert {"file": "dog/p000.png", "label": 7, "tags": ["a"]} in labels
    assert manifest.rejected[0]["reason"].startswith("not JSON")


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"size": 0}, "at least 1 pixel"), ({"processes": 0}, "processes"), ({"captions": "gone.csv"}, "gone.csv")],
)
def test_bad_settings_are_refused(tmp_path, settings, words):
    source = write_pictures(tmp_path / "pictures", 4)
    with pytest.raises(DataError, match=words):
        build_images(source, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_sources_and_tables_of_the_wrong_kind_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match="no picture"):
        build_images(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="not a readable zip"):
        build_images(tmp_path / "broken.zip", tmp_path / "out")
    with pytest.raises(DataError, match="found nothing"):
        build_images(tmp_path / "gone", tmp_path / "out")
    source = write_pictures(tmp_path / "pictures", 2)
    table = write_table(tmp_path / "t.csv", [{"name": "p000.png", "caption": "x"}])
    with pytest.raises(DataError, match="no 'file' column; it has caption, name"):
        build_images(source, tmp_path / "out", captions=table)
    assert not (tmp_path / "out").exists()


def test_without_a_good_picture_nothing_is_left_behind(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"not one good sample.*a\.png: not a PNG"):
        build_images(tmp_path / "pictures", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_changed_inputs_are_noticed_on_a_half_built_folder(tmp_path):
    source = write_pictures(tmp_path / "pictures", 6)
    build_images(source, tmp_path / "out", **SMALL)
    plan = json.loads((tmp_path / "out" / "manifest.json").read_text())["origin"]
    (tmp_path / "out" / ".building").mkdir()
    (tmp_path / "out" / ".building" / "plan.json").write_text(json.dumps(plan | {"inputs": "other"}))
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(DataError, match="half-built with other inputs"):
        build_images(source, tmp_path / "out", **SMALL)


def test_the_command_line_builds_and_lists_what_it_left_out(tmp_path, capsys):
    source, _, table = captioned(tmp_path, 12)
    (source / "bad.png").write_bytes(b"no")
    out = str(tmp_path / "out")
    assert main(["build", "images", str(source), "--out", out, "--captions", str(table), "--vocabulary", "300"]) == 0
    output = capsys.readouterr().out
    assert "12 samples (train" in output
    assert "bad.png: not a PNG, JPEG or WebP picture" in output
