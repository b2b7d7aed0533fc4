"""`mmpt build video` of films that PyAV itself wrote: frames, colours, the way up, and what is wrong with a film."""

import struct

import numpy as np
import pytest

from mmpt.data.builders.video import build_video
from mmpt.data.manifest import load_manifest
from mmpt.data.reader import Reader

av = pytest.importorskip("av", reason="films are read by the package PyAV")

FRAMES, HEIGHT, WIDTH = 12, 48, 64
CODECS = {"a.mp4": "mpeg4", "b.mkv": "mpeg4", "c.avi": "mpeg4", "d.mov": "mpeg4", "e.webm": "libvpx"}
LYING = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)  # to be turned a quarter clockwise


def frame(number):
    """A colour in each quarter, and a dark bar that goes four pixels a frame to the right."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:] = (200, 40, 40), (40, 200, 40)
    pixels[24:, :32], pixels[24:, 32:] = (40, 40, 200), (200, 200, 200)
    pixels[20:28, 4 * number : 4 * number + 4] = 10
    return pixels


def write_film(path, codec="mpeg4"):
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = HEIGHT, WIDTH, "yuv420p", 4_000_000
        for number in range(FRAMES):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")))
        film.mux(stream.encode())
    return path.read_bytes()


def write_sound(path):
    with av.open(str(path), "w") as film:
        stream = film.add_stream("aac", rate=16000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        film.mux(stream.encode(sound))
        film.mux(stream.encode())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A good film of each kind, and bad ones among them."""
    folder = tmp_path_factory.mktemp("films")
    source = folder / "in"
    source.mkdir()
    data = {name: write_film(source / name, codec) for name, codec in CODECS.items()}
    matrix = data["a.mp4"].index(b"tkhd") + 44
    (source / "lying.mp4").write_bytes(data["a.mp4"][:matrix] + LYING + data["a.mp4"][matrix + 36 :])
    (source / "cut.mp4").write_bytes(data["a.mp4"][: len(data["a.mp4"]) // 2])
    (source / "cut.mkv").write_bytes(data["b.mkv"][: len(data["b.mkv"]) * 2 // 3])
    middle = len(data["b.mkv"]) // 2
    (source / "scratched.mkv").write_bytes(data["b.mkv"][:middle] + b"U" * 400 + data["b.mkv"][middle + 400 :])
    (source / "empty.mov").write_bytes(b"")
    write_sound(source / "sound.mp4")
    build_video(source, folder / "out", storage="apng")
    return source, folder / "out"


@pytest.fixture(scope="module")
def films(built):
    """File -> frames."""
    manifest = load_manifest(built[1])
    reader = Reader(manifest, ["video", "labels"])
    samples = [reader.read(number) for number in range(len(manifest))]
    reader.close()
    return {sample["labels"]["file"]: sample["video"].astype(int) for sample in samples}


@pytest.mark.parametrize("name", CODECS)
def test_a_film_gives_each_of_its_frames_in_order_in_its_size_and_colours(films, name):
    assert films[name].shape == (FRAMES, HEIGHT, WIDTH, 3)
    apart = np.abs(films[name] - np.stack([frame(number) for number in range(FRAMES)])).mean((1, 2, 3))
    assert apart.max() < 4  # another frame is 6 or more apart
    corners = films[name][:, [4, 4, 44, 44], [2, 60, 2, 60]]
    assert np.abs(corners - [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 200)]).max() < 6


def test_a_film_that_is_stored_lying_stands_up(films):
    assert films["lying.mp4"].shape == (FRAMES, WIDTH, HEIGHT, 3)
    assert np.array_equal(films["lying.mp4"], np.rot90(films["a.mp4"], -1, axes=(1, 2)))


def test_films_that_are_wrong_get_a_sentence_each_and_the_others_are_built(built, films):
    assert set(films) == {*CODECS, "lying.mp4"}
    found = {entry["input"]: entry["reason"] for entry in load_manifest(built[1]).rejected}
    assert found == {
        str(built[0] / name): reason
        for name, reason in {
            "cut.mkv": "a film that is cut short: 0.8 of 1.2 seconds are there",
            "cut.mp4": "undecodable film (Invalid data found when processing input)",
            "empty.mov": "undecodable film (Invalid data found when processing input)",
            "scratched.mkv": "a damaged film",
            "sound.mp4": "a film without pictures",
        }.items()
    }
