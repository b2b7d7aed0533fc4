import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import soundfile

from mmpt.cli import main
from mmpt.data.builders.text import build_text
from mmpt.data.grouping import split_name
from mmpt.data.index import index_folder
from mmpt.data.manifest import load_manifest
from mmpt.data.tarscan import scan_tar
from mmpt.data.tokenizer import read_tokenizer, token_ids
from mmpt.errors import DataError
from tests.data.material import contents, members, picture_bytes, prose, write_jsonl, write_tar


def sample(key, number=1, **labels):
    return [
        (f"{key}.jpg", picture_bytes(number, "JPEG")),
        (f"{key}.json", json.dumps({"n": number} | labels).encode()),
    ]


def rejected(manifest):
    return {entry["input"]: entry["reason"] for entry in manifest.rejected}


def test_members_are_found_where_they_lie_and_tars_stay_as_they_are(tmp_path):
    write_tar(tmp_path / "a.tar", [m for i in range(5) for m in sample(f"train/{i:03d}", i, group=f"g{i // 2}")])
    (tmp_path / "sub").mkdir()
    write_tar(tmp_path / "sub" / "b.tar", sample("x"))
    before = {name: data for name, data in contents(tmp_path).items() if name.endswith(".tar")}
    index_folder(tmp_path)
    manifest = load_manifest(tmp_path)
    assert {name: data for name, data in contents(tmp_path).items() if name.endswith(".tar")} == before
    assert [shard.name for shard in manifest.shards] == ["a.tar", "sub/b.tar"]
    assert not manifest.rejected
    assert manifest.column("key").tolist() == ["train/000", "train/001", "train/002", "train/003", "train/004", "x"]
    assert manifest.column("group").tolist() == ["g0", "g0", "g1", "g1", "g2", "x"]
    assert set(manifest.fields) == {"image", "labels"}
    found = members(tmp_path)
    for row in manifest.samples.to_pylist():
        data = (tmp_path / manifest.shards[row["shard"]].name).read_bytes()
        piece = data[row["image.offset"] :][: row["image.size"]]
        assert piece == found[f"{row['key']}.jpg"]


def test_text_gets_a_tokenizer_and_lengths_in_its_tokens(tmp_path):
    data = [(f"{i}.txt", prose(i, 5 + i).encode()) for i in range(30)]
    write_tar(tmp_path / "a.tar", data)
    write_tar(tmp_path / "b.tar", [("x.json", b"{}")])
    manifest = index_folder(tmp_path, vocabulary=320)
    tokenizer = read_tokenizer(tmp_path / "tokenizer")
    assert manifest.lengths("text").tolist() == [*(len(token_ids(tokenizer, text.decode())) for _, text in data), 0]
    assert manifest.fields["text"].facts["mask"] == 4
    again = index_folder(tmp_path, vocabulary=999)
    assert again.fingerprint() == manifest.fingerprint()


def test_processes_do_not_change_the_manifest(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [(f"{i}.txt", prose(i + 100 * number).encode()) for i in range(10)])
    index_folder(tmp_path, vocabulary=320)
    one = contents(tmp_path)
    for name in ("manifest.json", "manifest.parquet"):
        (tmp_path / name).unlink()
    index_folder(tmp_path, vocabulary=320, processes=2)
    assert contents(tmp_path) == one


def test_keys_out_of_order_are_left_out_and_named(tmp_path):
    parts = {key: sample(key) for key in "012"}
    order = [parts["0"][0], parts["1"][0], parts["0"][1], parts["1"][1], *parts["2"]]
    write_tar(tmp_path / "a.tar", order)
    manifest = index_folder(tmp_path)
    assert manifest.column("key").tolist() == ["2"]
    assert "apart in the tar" in rejected(manifest)["a.tar: 0"]
    assert "apart in the tar" in rejected(manifest)["a.tar: 1"]


def test_of_duplicate_keys_the_first_is_kept(tmp_path):
    write_tar(tmp_path / "a.tar", [*sample("0", 1), *sample("1", 2), *sample("0", 3)])
    write_tar(tmp_path / "b.tar", [*sample("0", 4), ("0.jpg", picture_bytes(9, "JPEG"))])
    manifest = index_folder(tmp_path)
    assert manifest.column("key").tolist() == ["0", "1", "0"]
    assert "used before" in rejected(manifest)["a.tar: 0"]
    assert "second member" in rejected(manifest)["b.tar: 0.jpg"]


def test_a_missing_field_is_fine(tmp_path):
    write_tar(tmp_path / "a.tar", [*sample("0"), sample("1")[0], sample("2")[1]])
    manifest = index_folder(tmp_path)
    assert manifest.lengths("image").tolist() == [1, 1, 0]
    assert not manifest.rejected


def test_pickles_strangers_and_names_with_dots_are_refused_by_name_and_reason(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    evil = pickle.dumps(Evil())
    names = ["0.pkl", "0.pyd", "0.pth", "0.xyz", "0.mask.png", "rec 2.0 x.wav", "README"]
    write_tar(tmp_path / "a.tar", [*sample("0"), *((name, evil) for name in names)])
    manifest = index_folder(tmp_path)
    found = rejected(manifest)
    for name in names[:3]:
        assert "pickled" in found[f"a.tar: {name}"]
    assert "no decoder" in found["a.tar: 0.xyz"]
    for name in names[4:6]:
        assert "a dot in the name" in found[f"a.tar: {name}"]
    assert "no ending" in found["a.tar: README"]
    assert len(manifest) == 1
    assert not (tmp_path / "owned").exists()
    assert manifest.statistics["rejected"] == len(names)


def test_declared_endings_may_have_dots(tmp_path):
    data = picture_bytes(1)
    write_tar(tmp_path / "a.tar", [("0.jpg", picture_bytes(2, "JPEG")), ("0.Mask.PNG", data), ("0.cls", b"7")])
    manifest = index_folder(tmp_path, fields={"image": "jpg", "mask": "mask.png", "labels": ("json", "cls")})
    assert not manifest.rejected
    assert set(manifest.fields) == {"image", "mask", "labels"}
    assert main(["index", str(tmp_path), "--field", "mask=mask.png"]) == 0
    manifest = load_manifest(tmp_path)
    assert set(manifest.fields) == {"mask"}
    assert "no field is declared for .jpg" in rejected(manifest)["a.tar: 0.jpg"]


def test_an_undecodable_member_leaves_its_sample_out(tmp_path):
    write_tar(tmp_path / "a.tar", [*sample("0"), ("1.jpg", b"hello"), sample("1")[1], *sample("2"), ("3.json", b"{")])
    manifest = index_folder(tmp_path)
    assert manifest.column("key").tolist() == ["0", "2"]
    assert rejected(manifest)["a.tar: 1"] == "member '1.jpg': not a PNG, JPEG or WebP picture"
    assert "not JSON" in rejected(manifest)["a.tar: 3"]


def test_wherever_a_tar_is_cut_no_half_sample_comes_out(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", [m for i in range(6) for m in sample(str(i), i)]).read_bytes()
    offsets = [member.offset for member in scan_tar(tmp_path / "whole.tar").members]
    ends = sorted({0, 300, len(whole) - 1, *range(512, len(whole), 512), *(offset + 3 for offset in offsets)})
    (tmp_path / "cut").mkdir()
    for end in ends:
        (tmp_path / "cut" / "a.tar").write_bytes(whole[:end])
        (tmp_path / "cut" / "manifest.json").unlink(missing_ok=True)
        try:
            manifest = index_folder(tmp_path / "cut")
        except DataError:
            assert end <= offsets[3]
            continue
        assert manifest.lengths("image").tolist() == manifest.lengths("labels").tolist() == [1] * len(manifest), end
        complete = sum(offset < end for offset in offsets[1::2])
        assert complete - 2 <= len(manifest) <= complete, end
        mark = offsets[-1] + 512  # a block of zeros that says that nothing is missing
        assert bool(manifest.rejected) == (end < mark + 512), end


def test_a_cut_inside_a_samples_first_member_costs_that_sample_alone(tmp_path):
    path = write_tar(tmp_path / "a.tar", [m for i in range(4) for m in sample(str(i), i)])
    path.write_bytes(path.read_bytes()[: scan_tar(path).members[4].offset + 3])
    assert index_folder(tmp_path).column("key").tolist() == ["0", "1"]


def test_a_flipped_header_is_damage_and_not_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", [m for i in range(6) for m in sample(str(i), i)])
    data = bytearray(path.read_bytes())
    data[scan_tar(path).members[6].offset - 400] ^= 0xFF
    path.write_bytes(data)
    manifest = index_folder(tmp_path)
    assert manifest.column("key").tolist() == ["0", "1"]
    assert "damaged header at byte" in rejected(manifest)["a.tar"]
    assert "may be half" in rejected(manifest)["a.tar: 2"]


def test_compressed_tars_links_and_foreign_names_are_refused(tmp_path):
    write_tar(tmp_path / "good.tar", sample("0"))
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as tar:
        tar.add(tmp_path / "good.tar", "0.jpg")
    with tarfile.open(tmp_path / "odd.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        link = tarfile.TarInfo("0.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("é.json"))
        tar.addfile(tarfile.TarInfo("folder/"))
    manifest = index_folder(tmp_path)
    found = rejected(manifest)
    assert "compressed" in found["zipped.tar"]
    assert "not a plain file" in found["odd.tar: 0.jpg"]
    assert "not UTF-8" in found["odd.tar: '\\udce9.json'"]
    assert len(manifest) == 1


def test_folders_without_anything_to_index_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no \.tar"):
        index_folder(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        index_folder(tmp_path / "gone")
    write_tar(tmp_path / "a.tar", [("0.pkl", b"x")])
    with pytest.raises(DataError, match="pickled objects"):
        index_folder(tmp_path)
    with pytest.raises(DataError, match="pickled objects"):
        index_folder(tmp_path, fields={"x": "pkl"})
    write_tar(tmp_path / "a.tar", [("0.jpg", b"x")])
    with pytest.raises(DataError, match="not one good sample"):
        index_folder(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_a_builders_manifest_is_not_overwritten_but_a_damaged_one_is(tmp_path):
    build_text([write_jsonl(tmp_path / "a.jsonl", 20)], tmp_path / "out", vocabulary=320)
    with pytest.raises(DataError, match="nothing to index"):
        index_folder(tmp_path / "out")
    (tmp_path / "out" / "manifest.parquet").unlink()
    manifest = index_folder(tmp_path / "out")
    assert len(manifest) == 20
    assert manifest.column("key")[3] == "000000003"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.c/d.e.f", ("a/b.c/d", "e.f")),
        ("x.JPG", ("x", "jpg")),
        ("./x.jpg", ("x", "jpg")),
        ("plain", ("", "")),
        (".hidden", ("", "")),
        ("a/.hidden.png", ("", "")),
    ],
)
def test_names_are_cut_at_the_first_dot_of_the_file_name(name, expected):
    assert split_name(name) == expected


def test_the_command_line_says_what_was_left_out(tmp_path, capsys):
    write_tar(tmp_path / "a.tar", [*sample("0"), ("0.pkl", b"x")])
    assert main(["index", str(tmp_path)]) == 0
    assert "a.tar: 0.pkl: .pkl members hold pickled objects" in capsys.readouterr().out
    assert main(["index", str(tmp_path), "--field", "image"]) == 2
    assert "expected NAME=ENDING" in capsys.readouterr().err


def sound(rate, seconds=0.2):
    file = io.BytesIO()
    tone = np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)
    soundfile.write(file, tone, rate, format="FLAC")
    return file.getvalue()


def test_recordings_of_another_rate_are_left_out_by_name(tmp_path):
    data = [(f"{i}.flac", sound(16000 if i == 3 else 8000)) for i in range(6)]
    write_tar(tmp_path / "a.tar", data)
    manifest = index_folder(tmp_path, fields={"speech": "flac"})
    assert manifest.fields["speech"].facts == {"sample_rate": 8000}
    assert manifest.column("key").tolist() == ["0", "1", "2", "4", "5"]
    assert manifest.shards[0].samples == 5
    assert manifest.lengths("speech").tolist() == [1600] * 5
    assert rejected(manifest) == {
        "a.tar: 3": "sampled at 16000 Hz, most others at 8000 Hz; resample it, or index it apart"
    }


def test_a_pair_that_is_torn_apart_is_named_and_stays_two_samples(tmp_path, capsys):
    write_tar(
        tmp_path / "a.tar", [*sample("x"), ("bird.jpg", picture_bytes(1, "JPEG")), ("0.jpg", picture_bytes(2, "JPEG"))]
    )
    write_tar(tmp_path / "b.tar", [("bird.txt", b"a wren"), ("0.jpg", picture_bytes(3, "JPEG")), ("0.txt", b"a tit")])
    assert main(["index", str(tmp_path), "--vocabulary", "300", "--split", "1", "0", "0"]) == 0
    said = (
        "sample bird: image in a.tar and text in b.tar; a pair has to lie in one tar, these stay samples of their own"
    )
    out = capsys.readouterr().out
    assert f"torn apart: 1\n  {said}\n" in out
    assert len(load_manifest(tmp_path)) == 5
