"""What benchmarks/data.py reads: the sample data of mmpt/samples as tars, and each kind's members as plain numbers."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from PIL import Image as Picture

from mmpt.data.writer import ShardWriter
from mmpt.encoders import Encoder, Facts, Modality
from mmpt.samples import FOLDER
from mmpt.tokens import Content


@dataclass(frozen=True)
class Sizes:
    """Of a data set and its batches."""

    samples: int = 4096
    shards: int = 8
    batch: int = 64
    pixels: int = 96


SMALL = Sizes(samples=128, shards=4, batch=16, pixels=24)


@dataclass(frozen=True)
class Raw(Modality):
    """A field as plain numbers: what is left of a modality when only reading is looked at."""

    facts: Facts
    limit = 1

    def convert(self, value: Any) -> Any:
        """As it is."""
        return value

    def token_names(self, content: Content, row: int) -> list[str]:
        """One token."""
        return [self.kind]

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """The whole."""
        return [(0, length)]

    def num_tokens(self, start: int, stop: int) -> int:
        """One."""
        return 1

    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """Arrays padded to the longest, as one token a row."""
        arrays = [row[0] for row in rows]
        shape = (max(len(array) for array in arrays), *arrays[0].shape[1:])
        values = np.zeros((len(rows), 1, *shape), arrays[0].dtype)
        for number, array in enumerate(arrays):
            values[number, 0, : len(array)] = array
        there = torch.ones(len(rows), 1, dtype=torch.bool)
        place = torch.zeros(len(rows), 1, dtype=torch.int64)
        return Content(torch.from_numpy(values), there, there, place, place)

    def encoder(self, width: int) -> Encoder:
        """There is no model here."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pixels(Raw):
    """RGB bytes (H, W, 3)."""

    kind = "image"

    def read(self, value: Picture.Image, start: int, stop: int, draw: int | None) -> np.ndarray:
        """The picture's pixels."""
        return np.asarray(value)


@dataclass(frozen=True)
class Letters(Raw):
    """UTF-8 bytes."""

    kind = "text"

    def read(self, value: str, start: int, stop: int, draw: int | None) -> np.ndarray:
        """The text's bytes."""
        return np.frombuffer(value.encode(), np.uint8)


@dataclass(frozen=True)
class Wave(Raw):
    """Samples (T)."""

    kind = "audio"

    def read(self, value: tuple[np.ndarray, int], start: int, stop: int, draw: int | None) -> np.ndarray:
        """The sound, whatever its rate."""
        return value[0]


@dataclass(frozen=True)
class Numbers(Raw):
    """An array (N, ...)."""

    kind = "array"

    def read(self, value: np.ndarray, start: int, stop: int, draw: int | None) -> np.ndarray:
        """As it is stored."""
        return value


NOTHING = Facts(Path())
TEXT = Letters(NOTHING)


class Kind(NamedTuple):
    """One kind of shards: the first stream's members have `ending`, and each sample has a text of its own."""

    stream: str
    modality: Raw
    ending: str
    samples: Callable[[Sizes], Iterator[tuple[Any, str]]]  # without end

    @property
    def modalities(self) -> dict[str, Modality]:
        """By stream."""
        return {self.stream: self.modality, "text": TEXT}

    def write(self, folder: Path, sizes: Sizes) -> list[str]:
        """Samples in a fixed order, as many a shard; returns the tars."""
        each = sizes.samples // sizes.shards
        with ShardWriter(folder, {self.stream: self.ending, "text": "txt"}, samples_per_shard=each) as writer:
            for number, (value, text) in enumerate(islice(self.samples(sizes), sizes.samples)):
                writer.write({self.stream: value, "text": f"{number}: {text}", "__split__": "train"})
        return sorted(str(path) for path in folder.glob("*.tar"))


def pictures(sizes: Sizes) -> Iterator[tuple[bytes, str]]:
    """Emoji, enlarged, with their captions."""
    with zipfile.ZipFile(FOLDER / "images" / "emoji.zip") as archive:
        for row in cycle(_rows(FOLDER / "images" / "emoji.csv")):
            yield enlarged(archive.read(row["file"]), sizes.pixels), row["caption"]


def enlarged(data: bytes, pixels: int) -> bytes:
    """A PNG without transparency, which every side decodes to the same pixels."""
    layer = Picture.open(io.BytesIO(data)).convert("RGBA")
    plain = Picture.alpha_composite(Picture.new("RGBA", layer.size, "white"), layer).convert("RGB")
    buffer = io.BytesIO()
    plain.resize((pixels, pixels), Picture.Resampling.BICUBIC).save(buffer, "png")
    return buffer.getvalue()


def prompts(sizes: Sizes) -> Iterator[tuple[tuple[np.ndarray, int], str]]:
    """Spoken prompts and what they say."""
    with zipfile.ZipFile(FOLDER / "speech" / "prompts.zip") as archive:
        for row in cycle(_rows(FOLDER / "speech" / "speech.csv")):
            samples, rate = soundfile.read(io.BytesIO(archive.read(row["file"])), dtype="int16", always_2d=True)
            yield (samples[:, 0], rate), row["text"]


def beats(sizes: Sizes) -> Iterator[tuple[np.ndarray, str]]:
    """Heartbeats of one lead and their reports."""
    with np.load(FOLDER / "ecg" / "beats.npz") as archive:
        signal = archive["signal"].astype(np.float32)
    for row in cycle(_rows(FOLDER / "ecg" / "ecg.csv")):
        yield signal[int(row["row"])].reshape(-1, 1), row["report"]


def patients(sizes: Sizes) -> Iterator[tuple[np.ndarray, str]]:
    """Laboratory rows as (column number, value), and their notes."""
    columns = [row["column"] for row in _rows(FOLDER / "labs" / "units.csv")]
    for row in cycle(_rows(FOLDER / "labs" / "support2.csv.gz")):
        told = [(number, row[column]) for number, column in enumerate(columns)]
        yield np.array([(number, _number(text)) for number, text in told if text], np.float64), row["note"]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # a category
        return float(len(text))


def _rows(table: Path) -> list[dict[str, str]]:
    packed = table.suffix == ".gz"
    with gzip.open(table, "rt", encoding="utf-8") if packed else table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


KINDS = {
    "pictures": Kind("image", Pixels(NOTHING), "png", pictures),
    "speech": Kind("speech", Wave(NOTHING), "flac", prompts),
    "ECG": Kind("ecg", Numbers(NOTHING), "ecg.npy", beats),
    "labs": Kind("labs", Numbers(NOTHING), "labs.npy", patients),
}


def plainly(key: str, data: bytes) -> Any:
    """A member's value by the library that anyone would take; None leaves it to webdataset."""
    ending = key.rpartition(".")[2]
    if ending == "flac":
        return soundfile.read(io.BytesIO(data), dtype="float32")
    if ending == "npy":
        return np.load(io.BytesIO(data), allow_pickle=False)
    return json.loads(data) if ending == "json" else None
