"""Reading errors: each is named by shard, sample and member, and never becomes data."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image as Picture

from mmpt.build import build_modalities
from mmpt.config import component
from mmpt.data.manifest import load_manifest
from mmpt.data.reader import Reader
from mmpt.data.source import Source, SourceSettings
from mmpt.data.writer import ShardWriter
from mmpt.encoders import Facts, Modality
from mmpt.errors import DataError


@pytest.fixture
def images(shards, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(shards / "images", tmp_path / "images")


def place(folder, sample, field):
    manifest = load_manifest(folder)
    shard = folder / manifest.shards[manifest.column("shard")[sample]].name
    return shard, int(manifest.column(f"{field}.offset")[sample]), int(manifest.column(f"{field}.size")[sample])


def read(folder, sample, fields=("image", "text")):
    reader = Reader(load_manifest(folder), list(fields))
    try:
        return reader.read(sample)
    finally:
        reader.close()


def test_any_sample_can_be_read_in_any_order(images):
    manifest = load_manifest(images)
    for sample in (len(manifest) - 1, 0, 7):
        values = read(images, sample)
        assert isinstance(values["image"], Picture.Image)
        assert values["text"]


def test_one_flipped_byte_is_noticed(images):
    shard, offset, size = place(images, 3, "text")
    data = bytearray(shard.read_bytes())
    data[offset + size // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=rf"{shard.name}: sample .*: member 'text': .*checksum"):
        read(images, 3)
    assert read(images, 4)


def test_a_truncated_tar_names_the_samples_that_are_gone(images):
    shard, offset, size = place(images, 5, "image")
    shard.write_bytes(shard.read_bytes()[: offset + size - 10])
    with pytest.raises(DataError, match="the tar ends 10 bytes too early"):
        read(images, 5)
    assert read(images, 2)


def test_a_shard_that_is_gone_is_named(images):
    shard, _, _ = place(images, 0, "image")
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name}: sample .*No such file"):
        read(images, 0)


def test_a_sample_without_any_of_the_fields_is_said_to_have_none(tmp_path):
    with ShardWriter(tmp_path / "mixed", fields={"image": "png", "labels": "json"}) as writer:
        writer.write({"labels": {"label": "a"}})
        writer.write({"image": np.zeros((8, 8, 3), np.uint8), "labels": {"label": "b"}})
    with pytest.raises(DataError, match="has none of the fields image"):
        read(tmp_path / "mixed", 0, ("image",))
    assert "image" in read(tmp_path / "mixed", 1, ("image",))


def test_a_bad_sample_is_skipped_with_its_name_and_its_row_is_padding(images):
    manifest = load_manifest(images)
    facts = {"image": Facts(images, {}, manifest.statistics["image"])}
    modalities = build_modalities({"image": component(Modality, "image", size=16, patch=8)}, facts)
    source = Source("x", 0, SourceSettings(shards=images, streams=("image",)), modalities, 0)
    victim = int(source.samples[0])
    shard, offset, size = place(images, victim, "image")
    data = bytearray(shard.read_bytes())
    data[offset : offset + size] = bytes(size)
    shard.write_bytes(data)
    rows = source.rows(list(range(source.plan.num_bins)))
    assert [skip.key for skip in rows.skips] == [str(manifest.column("key")[victim])]
    assert shard.name in rows.skips[0].reason
    assert int((~rows.streams["image"].valid.any(1)).sum()) == 1


def test_a_manifest_that_was_changed_by_hand_is_refused(images):
    table = images / "manifest.parquet"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    with pytest.raises(DataError, match=r"manifest.parquet: missing or not the one .* run 'mmpt index"):
        load_manifest(images)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 1'])
def test_a_broken_manifest_gets_one_sentence(images, text):
    (images / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest.json: not a manifest"):
        load_manifest(images)


def test_a_manifest_of_another_version_is_refused(images):
    plain = json.loads((images / "manifest.json").read_text())
    (images / "manifest.json").write_text(json.dumps({**plain, "version": 99}))
    with pytest.raises(DataError, match="manifest version 99"):
        load_manifest(images)
