import json
import tarfile
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mmpt.data.decode import decode
from mmpt.data.manifest import load_manifest
from mmpt.data.schema import declare
from mmpt.data.split import split_of
from mmpt.data.writer import ShardWriter
from mmpt.errors import DataError
from tests.data.material import contents, picture, picture_bytes, prose


def samples(count):
    return [
        {"image": picture(i), "text": prose(i), "labels": {"n": i}, "__group__": f"group {i // 3}"}
        for i in range(count)
    ]


def write(folder, items, **settings):
    with ShardWriter(folder, **settings) as writer:
        for item in items:
            writer.write(item)
    assert writer.manifest
    return writer.manifest


def test_offsets_point_at_the_members_bytes(tmp_path):
    manifest = write(tmp_path / "out", samples(10), samples_per_shard=4)
    assert [shard.samples for shard in manifest.shards] == [4, 4, 2]
    for row in load_manifest(tmp_path / "out").samples.to_pylist():
        path = tmp_path / "out" / manifest.shards[row["shard"]].name
        data = path.read_bytes()
        with tarfile.open(path) as tar:
            for name, ending in (("image", "png"), ("text", "txt"), ("labels", "json")):
                entry = tar.getmember(f"{row['key']}.{ending}")
                assert (entry.offset_data, entry.size) == (row[f"{name}.offset"], row[f"{name}.size"])
                piece = data[row[f"{name}.offset"] :][: row[f"{name}.size"]]
                assert zlib.crc32(piece) == row[f"{name}.crc32"]
        assert data[row["text.offset"] :][: row["text.size"]].decode() == prose(int(row["key"]))


def test_what_was_written_is_read_back(tmp_path):
    rate, sound = 8000, np.sin(np.arange(800) / 9).astype(np.float32) / 2
    fields = {"image": "png", "ecg": "npy", "speech": "wav", "text": "txt", "labels": "json"}
    array = np.arange(24, dtype=np.int16).reshape(12, 2)
    item = {
        "image": np.asarray(picture(1)),
        "ecg": array,
        "speech": (sound, rate),
        "text": "é 漢",
        "labels": {"a": [1]},
    }
    manifest = write(tmp_path / "out", [item], fields=fields)
    row, data = manifest.samples.to_pylist()[0], (tmp_path / "out" / manifest.shards[0].name).read_bytes()
    back = {n: decode(f, data[row[f"{n}.offset"] :][: row[f"{n}.size"]]) for n, f in manifest.fields.items()}
    assert np.array_equal(np.asarray(back["image"]), np.asarray(picture(1)))
    assert np.array_equal(back["ecg"], array)
    assert back["ecg"].dtype == np.int16
    assert back["speech"][1] == rate
    assert np.abs(back["speech"][0] - sound).max() < 1e-3
    assert (back["text"], back["labels"]) == ("é 漢", {"a": [1]})
    lengths = {name: int(manifest.lengths(name)[0]) for name in fields}
    assert lengths == {"image": 1, "ecg": 12, "speech": 800, "text": 3, "labels": 1}


def test_a_missing_field_is_absent(tmp_path):
    manifest = write(tmp_path / "out", [{"text": "one"}, {"labels": {"a": 1}}])
    assert (manifest.column("text.offset") >= 0).tolist() == [True, False]
    assert manifest.lengths("text").tolist() == [3, 0]
    assert manifest.lengths("image").tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_bytes_pass_unchanged(tmp_path, kind):
    data = picture_bytes(3, {"png": "PNG", "jpg": "JPEG"}[kind])
    manifest = write(tmp_path / "out", [{"image": data}], fields={"image": ("png", "jpg")})
    row = manifest.samples.to_pylist()[0]
    tar = tmp_path / "out" / manifest.shards[0].name
    assert tar.read_bytes()[row["image.offset"] :][: row["image.size"]] == data
    with tarfile.open(tar) as opened:
        assert opened.getnames() == [f"000000000.{kind}"]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"text": "x", "__key__": "a.b"}, "dots"),
        ({"text": "x", "__key__": "a/b"}, "slashes"),
        ({"text": "x", "__key__": "a b"}, "white space"),
        ({"text": "x", "__key__": "a\n"}, "white space"),
        ({"text": "x", "__key__": "k" * 101}, "100"),
        ({"text": "x", "__key__": "k" * 97}, "101 bytes"),
        ({"text": "x", "__key__": "漢" * 40}, "bytes"),
        ({"text": "x", "__key__": ""}, "non-empty"),
        ({"text": "x", "__key__": "first"}, "written before"),
        ({"txt": "x"}, "did you mean text"),
        ({}, "empty"),
        ({"__key__": "only"}, "empty"),
        ({"text": 5}, "takes text"),
        ({"text": b"\xff\xfe"}, "not UTF-8"),
        ({"text": "\ud800"}, "UTF-8"),
        ({"image": b"GIF89a"}, "not a PNG"),
        ({"image": picture_bytes(1)[:-30]}, "undecodable"),
        ({"image": picture_bytes(1, "JPEG")}, "bytes are JPEG"),
        ({"image": np.zeros((4, 4), np.float32)}, "uint8"),
        ({"image": "path.png"}, "PIL image"),
        ({"labels": {"a": {1, 2}}}, "JSON"),
        ({"labels": {"a": float("nan")}}, "JSON"),
        ({"labels": ["a"]}, "dict"),
        ({"text": "x", "__group__": "g", "__split__": "test"}, "in split train already"),
        ({"text": "x", "__split__": "a b"}, "plain name"),
    ],
)
def test_a_sample_that_cannot_be_stored_is_refused_and_the_rest_stays_writable(tmp_path, sample, words):
    with ShardWriter(tmp_path / "out") as writer:
        writer.write({"text": "good", "__key__": "first", "__group__": "g", "__split__": "train"})
        with pytest.raises(DataError, match=words):
            writer.write(sample)
        writer.write({"text": "good too", "__key__": "second"})
    assert load_manifest(tmp_path / "out").column("key").tolist() == ["first", "second"]


def test_object_arrays_are_refused_both_ways(tmp_path):
    with ShardWriter(tmp_path / "out", {"ecg": "npy"}) as writer:
        with pytest.raises(DataError, match="numbers"):
            writer.write({"ecg": np.array([{}], dtype=object)})
        np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match=r"not a plain \.npy"):
            writer.write({"ecg": (tmp_path / "evil.npy").read_bytes()})
        writer.write({"ecg": np.zeros(3)})


@pytest.mark.parametrize("ending", ["pkl", "pth", "pyd", "xyz"])
def test_fields_without_a_safe_decoder_are_refused(tmp_path, ending):
    with pytest.raises(DataError, match=r"pickled|no decoder"):
        ShardWriter(tmp_path / "out", {"thing": ending})


def test_two_fields_cannot_share_an_ending(tmp_path):
    with pytest.raises(DataError, match=r"'b\.json'"):
        ShardWriter(tmp_path / "out", {"a": "json", "b": "json"})
    manifest = write(tmp_path / "out", [{"a": {"x": 1}, "b": {"y": 2}}], fields={"a": "json", "b": "b.json"})
    assert set(manifest.fields) == {"a", "b"}


def test_a_group_never_straddles_splits(tmp_path):
    manifest = write(tmp_path / "out", samples(200), samples_per_shard=50)
    splits = {}
    for group, split in zip(manifest.column("group"), manifest.column("split"), strict=True):
        assert splits.setdefault(group, split) == split
        assert split == split_of(group, (0.8, 0.1, 0.1))
    assert set(splits.values()) == {"train", "validation", "test"}


def test_shares_are_kept_over_many_groups():
    counts = {"train": 0, "validation": 0, "test": 0}
    for number in range(5000):
        counts[split_of(f"patient {number}", (0.7, 0.2, 0.1))] += 1
    assert abs(counts["train"] / 5000 - 0.7) < 0.03
    assert abs(counts["validation"] / 5000 - 0.2) < 0.03


@pytest.mark.parametrize("split", [(0.5, 0.1, 0.1), (1.2, -0.1, -0.1)])
def test_bad_shares_are_refused(tmp_path, split):
    with pytest.raises(DataError, match="sum to 1"):
        ShardWriter(tmp_path / "out", split=split)


def test_a_shard_ends_before_its_byte_limit(tmp_path):
    manifest = write(tmp_path / "out", [{"text": "x" * 3000} for _ in range(6)], shard_bytes=8000)
    assert [shard.samples for shard in manifest.shards] == [2, 2, 2]


def test_an_exception_leaves_finished_shards_and_no_manifest_and_the_next_try_goes_on(tmp_path):
    items = samples(10)
    half_built(tmp_path / "out")
    there = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert there == [".building", "shard-000000.tar"]
    before = (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns
    write(tmp_path / "out", items, samples_per_shard=4)
    assert (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns == before
    write(tmp_path / "whole", items, samples_per_shard=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def half_built(folder):
    """Six samples, four of them in a finished shard, and then the program fails."""

    def failing():
        yield from samples(6)
        raise RuntimeError("cable")

    with pytest.raises(RuntimeError, match="cable"):
        write(folder, failing(), samples_per_shard=4)


def test_a_half_built_folder_refuses_other_settings_and_other_samples(tmp_path):
    half_built(tmp_path / "out")
    with pytest.raises(DataError, match="half-built with other limits"):
        write(tmp_path / "out", samples(6), samples_per_shard=5)
    with pytest.raises(DataError, match="half-built from other samples"):
        write(tmp_path / "out", [{"text": "x", "__key__": "other"}], samples_per_shard=4)
    with pytest.raises(DataError, match="fewer samples"):
        write(tmp_path / "out", samples(2), samples_per_shard=4)
    write(tmp_path / "out", samples(6), samples_per_shard=4)


def test_a_used_folder_is_refused(tmp_path):
    write(tmp_path / "out", samples(1))
    with pytest.raises(DataError, match="choose another"):
        write(tmp_path / "out", samples(1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("precious")
    with pytest.raises(DataError, match="not an empty folder"):
        write(tmp_path / "other", samples(1))
    assert (tmp_path / "other" / "thesis.doc").exists()


def test_two_writers_in_one_folder_are_refused(tmp_path):
    with ShardWriter(tmp_path / "out") as writer:
        with pytest.raises(DataError, match="another process"), ShardWriter(tmp_path / "out"):
            pass
        writer.write({"text": "x"})


def test_no_sample_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="no sample"):
        write(tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_webdataset_reads_the_shards(tmp_path):
    from webdataset.compat import WebDataset

    write(tmp_path / "out", samples(10), samples_per_shard=4)
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    found = list(WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [item["__key__"] for item in found] == [f"{i:09d}" for i in range(10)]
    assert [item["txt"] for item in found] == [prose(i) for i in range(10)]
    assert found[7]["json"] == {"n": 7}
    assert np.array_equal(np.asarray(found[7]["png"]), np.asarray(picture(7)))


def test_datasets_reads_the_shards(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

        write(tmp_path / "out", samples(10), samples_per_shard=4)
        files = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
        stream = datasets.load_dataset(
            "webdataset", data_files={"train": files}, split="train", streaming=True, cache_dir=str(tmp_path / "cache")
        )
        found = list(stream)
    assert [item["txt"] for item in found] == [prose(i) for i in range(10)]
    assert found[4]["json"] == {"n": 4}
    assert found[4]["png"].size == (24, 18)


def test_transparency_becomes_white_and_formats_outside_the_schema_are_out_of_reach():
    import io

    def saved(image, kind):
        file = io.BytesIO()
        image.save(file, kind)
        return file.getvalue()

    field = declare("image", "png")
    assert decode(field, saved(Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "PNG")).getpixel((0, 0)) == (255, 255, 255)
    grey = Image.fromarray(np.full((2, 2), 40000, np.uint16))
    assert decode(field, saved(grey, "PNG")).getpixel((0, 0)) == (156, 156, 156)
    for kind in ("BMP", "GIF", "TIFF", "PPM"):
        with pytest.raises(DataError, match="not a PNG"):
            decode(field, saved(picture(1), kind))


def test_a_decompression_bomb_is_refused():
    import io
    import struct

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (10_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        with pytest.raises(DataError, match="pixels"):
            decode(declare("image", "png"), io.BytesIO(data).getvalue())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_pictures_give_a_sentence_and_nothing_else(kind):
    generator = np.random.default_rng(0)
    whole = picture_bytes(2, kind)
    for _ in range(150):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), 6):
            data[place] = generator.integers(0, 256)
        cut = bytes(data[: generator.integers(1, len(data) + 1)])
        try:
            decode(declare("image", "png"), cut)
        except DataError:
            continue  # anything else that PIL may raise fails the test


def test_the_same_samples_give_the_same_bytes(tmp_path):
    write(tmp_path / "a", samples(5))
    write(tmp_path / "b", samples(5))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    json.loads((tmp_path / "a" / "manifest.json").read_text())
