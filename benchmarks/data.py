"""Samples a second out of tars, shuffled: mmpt's reader beside webdataset and datasets.

    python benchmarks/data.py

The same tars (pictures of mmpt/samples, laid over white and enlarged, as RGB PNG, with their captions) through torch's
DataLoader with 1 and 2 workers. All sides hand over the same batches of decoded RGB pixels and captions, collated by
the same function; before anything is timed, an epoch of each must hold exactly the same samples.

- mmpt: `steps_from` over `MicroBatches`, as a run reads: every epoch in a random order of all samples, every member's
  checksum compared, and the keys of the batch's random numbers made.
- webdataset: shards shuffled, then a buffer of 1000 samples; `decode("pilrgb")`.
- datasets: `load_dataset("webdataset", streaming=True).shuffle(buffer_size=1000)`.

The clock runs from the first batch to the last of an epoch, so that starting workers and filling buffers do not count.
Rates are medians over repeats in which every side reads one epoch, in turns; `mmpt is` is the median of the repeats'
ratios.
"""

import argparse
import csv
import io
import os
import statistics
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image as Picture
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from mmpt.data.batches import MicroBatches, share_of, steps_from
from mmpt.data.source import Source, SourceSettings
from mmpt.data.writer import ShardWriter
from mmpt.encoders import Encoder, Facts, Modality
from mmpt.samples import FOLDER
from mmpt.tokens import Content

BUFFER = 1000  # samples that the peers shuffle among
PREFETCH = 4  # batches a worker, for all sides
GOAL = 1.0


@dataclass(frozen=True)
class Sizes:
    """Of the data set and its batches."""

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
        values = np.zeros((len(rows), 1, *shape), np.uint8)
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
        """The caption's bytes."""
        return np.frombuffer(value.encode(), np.uint8)


MODALITIES: dict[str, Modality] = {"image": Pixels(Facts(Path())), "text": Letters(Facts(Path()))}
Streams = dict[str, Content]


def collate(samples: Iterable[tuple[Picture.Image, str]]) -> Streams:
    """The peers' decoded samples -> what mmpt's loader makes of its own."""
    images, texts = zip(*samples, strict=True)
    values = {"image": images, "text": texts}
    return {
        name: modality.collate([[modality.read(value, 0, 1, None)] for value in values[name]], None)
        for name, modality in MODALITIES.items()
    }


def write_tars(folder: Path, sizes: Sizes) -> list[str]:
    """Samples in a fixed order, as many a shard; returns the tars."""
    with (FOLDER / "images" / "emoji.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    each = sizes.samples // sizes.shards
    with (
        zipfile.ZipFile(FOLDER / "images" / "emoji.zip") as pictures,
        ShardWriter(folder, {"image": "png", "text": "txt"}, samples_per_shard=each) as writer,
    ):
        for number, row in enumerate(islice(cycle(table), sizes.samples)):
            image = enlarged(pictures.read(row["file"]), sizes.pixels)
            writer.write({"image": image, "text": f"{number}: {row['caption']}", "__split__": "train"})
    return sorted(str(path) for path in folder.glob("*.tar"))


def enlarged(data: bytes, pixels: int) -> bytes:
    """A PNG without transparency, which every side decodes to the same pixels."""
    layer = Picture.open(io.BytesIO(data)).convert("RGBA")
    plain = Picture.alpha_composite(Picture.new("RGBA", layer.size, "white"), layer).convert("RGB")
    buffer = io.BytesIO()
    plain.resize((pixels, pixels), Picture.Resampling.BICUBIC).save(buffer, "png")
    return buffer.getvalue()


def mmpt_epoch(folder: Path, tars: list[str], sizes: Sizes, workers: int, seed: int) -> Iterator[Streams]:
    """As mmpt.training.pretrain reads."""
    source = Source("tars", 0, SourceSettings(shards=folder, streams=tuple(MODALITIES)), MODALITIES, seed)
    steps = sizes.samples // sizes.batch
    batches = MicroBatches([source], [1.0], steps, seed, share_of(sizes.batch, None, 0, 1))
    for (micro,) in steps_from(batches, 0, workers=workers):
        if micro.skips:
            raise SystemExit(f"mmpt skipped a sample: {micro.skips[0].reason}")
        yield micro.batch.streams


def webdataset_epoch(folder: Path, tars: list[str], sizes: Sizes, workers: int, seed: int) -> Iterator[Streams]:
    """By webdataset's own pipeline."""
    import webdataset

    samples = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=seed).shuffle(BUFFER).decode("pilrgb")
    batches = samples.to_tuple("png", "txt").batched(sizes.batch, collation_fn=collate)
    return iter(DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=PREFETCH))


def datasets_epoch(folder: Path, tars: list[str], sizes: Sizes, workers: int, seed: int) -> Iterator[Streams]:
    """By datasets' reader of WebDataset tars."""
    import datasets

    datasets.disable_progress_bars()
    samples = datasets.load_dataset(
        "webdataset", data_files={"train": tars}, split="train", streaming=True, cache_dir=str(folder / "cache")
    )
    shuffled = samples.shuffle(seed=seed, buffer_size=BUFFER)
    return iter(
        DataLoader(
            shuffled, batch_size=sizes.batch, num_workers=workers, prefetch_factor=PREFETCH, collate_fn=_of_datasets
        )
    )


def _of_datasets(rows: list[dict[str, Any]]) -> Streams:
    return collate((row["png"], row["txt"]) for row in rows)


Epoch = Callable[[Path, list[str], Sizes, int, int], Iterator[Streams]]
SIDES: dict[str, Epoch] = {"mmpt": mmpt_epoch, "webdataset": webdataset_epoch, "datasets": datasets_epoch}


class Reading(NamedTuple):
    """One epoch."""

    samples: int
    rate: float  # samples a second after the first batch


def read(epoch: Iterator[Streams]) -> Reading:
    """To its end."""
    first = len(next(epoch)["image"].values)
    began = time.perf_counter()
    samples = sum(len(streams["image"].values) for streams in epoch)
    return Reading(first + samples, samples / (time.perf_counter() - began))


def contents(epoch: Iterator[Streams]) -> Counter[tuple[int, bytes]]:
    """What an epoch holds: a checksum of the pixels and the caption of every sample."""
    seen: Counter[tuple[int, bytes]] = Counter()
    for streams in epoch:
        for pixels, letters in zip(streams["image"].values.numpy(), streams["text"].values.numpy(), strict=True):
            seen[zlib.crc32(pixels.tobytes()), letters.tobytes().rstrip(b"\0")] += 1
    return seen


def check(folder: Path, tars: list[str], sizes: Sizes) -> None:
    """Every side reads every sample once, and all decode it alike."""
    found = {name: contents(epoch(folder, tars, sizes, 1, 0)) for name, epoch in SIDES.items()}
    for name, own in found.items():
        if own != found["mmpt"] or own.total() != sizes.samples or len(own) != sizes.samples:
            raise SystemExit(f"{name} read {own.total()} samples, {len(own)} different ones, not those that mmpt read")


@dataclass
class Rates:
    """What was measured of one number of workers."""

    samples: dict[str, int] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SIDES})


def measure(folder: Path, tars: list[str], sizes: Sizes, workers: int, repeats: int) -> Rates:
    """Every side in turns; another one begins every time."""
    measured = Rates()
    names = list(SIDES)
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            reading = read(SIDES[name](folder, tars, sizes, workers, repeat + 1))
            measured.samples[name] = reading.samples
            measured.rates[name].append(reading.rate)
    return measured


def add_rows(table: Table, workers: int, measured: Rates) -> None:
    """One row a side."""
    medians = {name: statistics.median(rates) for name, rates in measured.rates.items()}
    fastest = max((name for name in SIDES if name != "mmpt"), key=medians.__getitem__)
    for name, rates in measured.rates.items():
        ratio = statistics.median(ours / own for ours, own in zip(measured.rates["mmpt"], rates, strict=True))
        table.add_row(
            str(workers),
            name,
            str(measured.samples[name]),
            f"{medians[name]:.0f}",
            "" if name == "mmpt" else f"{ratio:.2f} x as fast",
            f"{GOAL} x" if name == fastest else "",
        )
    table.add_section()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of which medians are taken")
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that it runs, says nothing of speed")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")  # torch counts this machine's cores, the peers speak of lengths they can't know
    torch.set_num_threads(1)
    sizes = SMALL if arguments.small else Sizes()
    table = Table(title=f"reading, shuffled: {sizes.samples} samples, batches of {sizes.batch}")
    for name in ("workers", "side", "samples", "samples/s", "mmpt is", "goal"):
        table.add_column(name, justify="left" if name == "side" else "right")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tars"
        tars = write_tars(folder, sizes)
        check(folder, tars, sizes)
        for workers in (1, 2):
            add_rows(table, workers, measure(folder, tars, sizes, workers, arguments.repeats))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
