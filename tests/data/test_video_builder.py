"""`mmpt build video`: what becomes a clip, what is left out and why, and what a loader does with clips."""

import io
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from mmpt.build import build_modalities, build_sources, facts_of
from mmpt.cli import main
from mmpt.config import parse_settings
from mmpt.data.batches import MicroBatches, Share
from mmpt.data.builders.video import build_video
from mmpt.data.decode import animation_frames, decode, decode_video
from mmpt.data.encode import encode
from mmpt.data.manifest import load_manifest
from mmpt.data.reader import Reader
from mmpt.data.schema import declare
from mmpt.errors import DataError
from mmpt.settings import Recipe
from tests.data.material import contents, members
from tests.encoders.video_material import clip


def pictures_of(number, frames=8):
    return [Image.fromarray(frame) for frame in clip(number, frames)]


def animation(pictures, kind, **settings):
    file = io.BytesIO()
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], **settings)
    return file.getvalue()


def write_numbered(folder, pictures, name="{}.png", first=1):
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures, start=first):
        picture.save(folder / name.format(number))


@pytest.fixture
def source(tmp_path):
    """One video of each kind, of 8 frames."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.gif").write_bytes(animation(pictures_of(0), "GIF", duration=40))
    (folder / "b.webp").write_bytes(animation(pictures_of(1), "WEBP", duration=40, lossless=True))
    (folder / "c2.png").write_bytes(animation(pictures_of(2), "PNG", duration=40))
    (folder / "d.mjpeg").write_bytes(encode(declare("video", "mjpeg"), clip(3)).data)
    write_numbered(folder / "walk" / "left", pictures_of(4), "frame_{}.png", first=5)  # 9 comes before 10
    return folder


def clips(folder):
    """File -> decoded frames of each of its clips, and the labels."""
    manifest = load_manifest(folder)
    reader, found = Reader(manifest, ["video", "labels"]), {}
    for number in range(len(manifest)):
        sample = reader.read(number)
        found.setdefault(sample["labels"]["file"], []).append((sample["video"], sample["labels"]))
    reader.close()
    return found


def test_every_kind_of_source_gives_its_frames(source, tmp_path):
    manifest = build_video(source, tmp_path / "out", storage="apng")
    found = clips(tmp_path / "out")
    assert list(found) == ["a.gif", "b.webp", "c2.png", "d.mjpeg", "walk/left/frame"]
    assert not manifest.rejected
    for number, ((frames, labels),) in enumerate(found.values()):
        assert frames.shape == (8, 20, 24, 3)
        error = np.abs(frames.astype(int) - clip(number)).mean()
        assert error < (1e-9 if number in (1, 2, 4) else 12)  # a palette and JPEG lose a little
        assert labels.get("label") == ("walk" if number == 4 else None)
    assert manifest.lengths("video").tolist() == [8] * 5
    assert manifest.statistics["video"]["frames"] == {"min": 8, "median": 8, "max": 8}


def test_a_zip_gives_the_same_samples_as_its_folder(source, tmp_path):
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        for path in sorted(source.rglob("*.*"), reverse=True):
            archive.write(path, path.relative_to(source).as_posix())
    for name in ("videos", "videos.zip"):
        build_video(tmp_path / name, tmp_path / f"out-{name}")
    assert members(tmp_path / "out-videos") == members(tmp_path / "out-videos.zip")


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_a_frame_that_lasts_longer_counts_as_often(tmp_path, kind):
    """Encoders make one frame of equal ones."""
    first, second, third = pictures_of(1, 3)
    (tmp_path / "in").mkdir()
    data = animation([first, second, second, second, third], kind, duration=40)
    (tmp_path / "in" / f"a.{kind.lower()}").write_bytes(data)
    assert len(list(animation_frames(data))) == 3
    build_video(tmp_path / "in", tmp_path / "out", storage="apng")
    ((frames, _),) = next(iter(clips(tmp_path / "out").values()))
    assert len(frames) == 5
    assert np.array_equal(frames[1], frames[3])
    assert not np.array_equal(frames[3], frames[4])


def test_long_videos_are_cut_into_clips_of_one_group_that_hold_every_frame(tmp_path):
    write_numbered(tmp_path / "in" / "long", pictures_of(0, 23))
    write_numbered(tmp_path / "in" / "short", pictures_of(1, 6))
    for shard in (1, 100):  # a shard may begin in the middle of a video
        manifest = build_video(
            tmp_path / "in", tmp_path / f"out-{shard}", frames=6, storage="apng", samples_per_shard=shard
        )
        found = clips(tmp_path / f"out-{shard}")
        assert np.array_equal(np.concatenate([frames for frames, _ in found["long"]]), clip(0, 23))
        assert [len(frames) for frames, _ in found["long"]] == [5, 6, 6, 6]
        assert [(labels["part"], labels["frame"]) for _, labels in found["long"]] == [(1, 0), (2, 5), (3, 11), (4, 17)]
        assert "part" not in found["short"][0][1]
        assert len(set(manifest.column("group"))) == 2


def test_tables_give_captions_labels_and_groups(source, tmp_path):
    names = ["a.gif", "b.webp", "c2.png", "d.mjpeg", "walk/left/frame", "gone.gif"]
    rows = [f"{name},clip number {n},{'xy'[n % 2]},g{n // 2}" for n, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["file,caption,label,group", *rows]))
    table = tmp_path / "t.csv"
    manifest = build_video(source, tmp_path / "out", captions=table, labels=table, vocabulary=300, split=(1, 0, 0))
    assert [labels["label"] for ((_, labels),) in clips(tmp_path / "out").values()] == ["x", "y", "x", "y", "x"]
    assert manifest.column("group").tolist() == ["g0", "g0", "g1", "g1", "g2"]
    assert manifest.lengths("text").min() > 1
    assert [entry["reason"] for entry in manifest.rejected] == ["'gone.gif': there is no such video"]


def test_size_shrinks_frames_and_statistics_are_those_of_the_training_pixels(source, tmp_path):
    manifest = build_video(source, tmp_path / "out", size=10, storage="apng", split=(0.5, 0.5, 0))
    found = [frames for ((frames, _),) in clips(tmp_path / "out").values()]
    assert all(frames.shape == (8, 10, 12, 3) for frames in found)
    train = [frames for frames, split in zip(found, manifest.column("split"), strict=True) if split == "train"]
    pixels = np.concatenate(train).reshape(-1, 3) / 255
    assert 0 < len(train) < 5
    assert np.allclose(manifest.statistics["video"]["mean"], pixels.mean(0))
    assert np.allclose(manifest.statistics["video"]["std"], pixels.std(0))


def test_bad_videos_are_listed_with_a_sentence_and_the_rest_is_built(source, tmp_path, capsys):
    whole = animation(pictures_of(5), "GIF", duration=40)
    bad = {
        "cut.gif": whole[: len(whole) // 2],
        "empty.gif": b"",
        "one.gif": animation(pictures_of(6, 1), "GIF"),
        "text.webp": b"hello",
        "cut.mjpeg": encode(declare("video", "mjpeg"), clip(7)).data[:-9],
    }
    for name, data in bad.items():
        (source / name).write_bytes(data)
    pictures_of(8, 1)[0].save(source / "single.jpg")
    write_numbered(source / "mixed", [*pictures_of(9, 3), Image.new("RGB", (9, 9))])
    write_numbered(source / "lone", pictures_of(9, 1))
    write_numbered(source / "torn", pictures_of(9, 3))
    (source / "torn" / "2.png").write_bytes(b"no")
    assert main(["build", "video", str(source), "--out", str(tmp_path / "out"), "--processes", "1"]) == 0
    assert "left out: 9" in capsys.readouterr().out
    manifest = load_manifest(tmp_path / "out")
    found = {entry["input"].removeprefix(f"{source}/"): entry["reason"] for entry in manifest.rejected}
    assert found.pop("cut.gif").startswith("undecodable picture (")
    assert found.pop("one.gif") == found.pop("lone") == "1 frame, where a clip has 2 or more"
    for name in ("empty.gif", "text.webp"):
        assert found.pop(name) == "not an animated GIF, PNG or WebP picture"
    assert found.pop("cut.mjpeg") == "a motion JPEG that is cut short or damaged"
    assert found.pop("single.jpg").startswith("a single picture; frames of a video are numbered, as in walk/0001.jpg")
    assert found.pop("mixed") == "frames of 9 x 9 and 24 x 20 pixels; all frames of a clip have one size"
    assert found.pop("torn") == "frame 'torn/2.png': not a PNG, JPEG or WebP picture"
    assert not found
    assert len(manifest) == 5


def test_films_need_a_package_and_what_is_none_is_left_out(source, tmp_path):
    (source / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    manifest = build_video(source, tmp_path / "out")
    ((reason),) = [entry["reason"] for entry in manifest.rejected]
    there = find_spec("av") is not None
    assert reason.startswith("undecodable film (" if there else "films are read by the package PyAV; install it (pip")
    assert len(manifest) == 5


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--frames", "2"], "frames must be at least 3, got 2"),
        (["--size", "0"], "size must be at least 1 pixel, got 0"),
    ],
)
def test_settings_that_make_no_clip_end_the_command_with_a_sentence(source, tmp_path, capsys, option, sentence):
    assert main(["build", "video", str(source), "--out", str(tmp_path / "out"), *option]) == 2
    assert capsys.readouterr().err == f"mmpt: {sentence}\n"
    assert not (tmp_path / "out").exists()


def test_where_nothing_is_good_nothing_is_written(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="not one good sample in the input, nothing was written; the first of 1 bad"):
        build_video(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_refuses_and_a_second_build_gives_the_same_bytes(source, tmp_path):
    for name in ("one", "two"):
        build_video(source, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with pytest.raises(DataError, match="there is a data set already"):
        build_video(source, tmp_path / "one")


# ---- members


@pytest.mark.parametrize("ending", ["mjpeg", "apng"])
def test_damaged_members_are_refused_wherever_they_are_cut(ending):
    field = declare("video", ending)
    member = encode(field, clip(0, 3))
    assert member.length == len(decode(field, member.data)) == 3
    for cut in range(0, len(member.data) - 1, 61):
        with pytest.raises(DataError):
            decode(field, member.data[:cut])


def test_equal_frames_of_a_member_stay_apart():
    frames = np.repeat(clip(0, 1), 4, axis=0)
    for ending in ("mjpeg", "apng"):
        assert len(decode_video(encode(declare("video", ending), frames).data)) == 4


def test_values_that_are_no_clip_are_not_written():
    frames = clip(0, 3)
    wrong = [(frames[:1], "1 frame, where a clip has 2"), (frames / 255, "takes uint8 frames of T x H x W x 3")]
    for value, sentence in wrong:
        with pytest.raises(DataError, match=sentence):
            encode(declare("video", "mjpeg"), value)
    with pytest.raises(DataError, match=r"can't be written as \.gif; use \.mjpeg or \.apng"):
        encode(declare("video", "gif"), frames)


RECIPE = """
streams: {video: {type: video, size: 16, patch: 4, frames: 6, tubelet: 2, stride: 1}}
trunk: {type: transformer, width: 16, depth: 1, heads: 2}
objective:
  type: masked_prediction
  streams:
    video:
      masking: {ratio: 0.75, unit: tube}
      corruption: drop
      predictor: {type: decoder, width: 16, depth: 1, heads: 2}
      target: pixels
data: {sources: {clips: {shards: SHARDS, streams: [video]}}, batch_size: 4}
training: {steps: 2, optimizer: {learning_rate: 1e-3}}
"""


def test_a_clip_shorter_than_the_recipes_is_skipped_with_a_sentence_and_no_other(tmp_path):
    for number, frames in enumerate((8, 5, 6, 7)):
        write_numbered(tmp_path / "in" / "abcd"[number], pictures_of(number, frames))
    build_video(tmp_path / "in", tmp_path / "out", split=(1, 0, 0))
    recipe = parse_settings(RECIPE.replace("SHARDS", str(tmp_path / "out")), [], Recipe)
    modalities = build_modalities(recipe.streams, facts_of(recipe))
    micro = MicroBatches(build_sources(recipe, modalities), [1.0], 1, 0, Share(0, 1, 1, 4))[0]
    ((skip),) = micro.skips
    assert "5 frames, where a clip has 6; leave it out, or lower the stream's frames" in str(skip)
    assert micro.batch.streams["video"].valid.any(1).sum() == 3
