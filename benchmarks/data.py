"""Samples a second out of tars, shuffled: mmpt's reader beside webdataset and, for pictures, datasets.

    python benchmarks/data.py

The same tars (sample data of mmpt/samples: pictures laid over white and enlarged, as RGB PNG; spoken prompts as FLAC;
heartbeats and laboratory rows as arrays; all with a text) through torch's DataLoader with 1 and 2 workers. All sides
hand over the same batches of decoded values, collated by the same function; before anything is timed, an epoch of each
must hold exactly the same samples.

- mmpt: `steps_from` over `MicroBatches`, as a run reads: every epoch in a random order of all samples, every member's
  checksum compared, and the keys of the batch's random numbers made.
- webdataset: shards shuffled, then a buffer of 1000 samples; `decode("pilrgb")`, or soundfile and numpy as they come.
- datasets: `load_dataset("webdataset", streaming=True).shuffle(buffer_size=1000)`.

The clock runs from the first batch to the last of an epoch, so that starting workers and filling buffers do not count.
Rates are medians over repeats in which every side reads one epoch, in turns; `mmpt is` is the median of the repeats'
ratios.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from data_kinds import KINDS, SMALL, Kind, Sizes, plainly
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from mmpt.data.batches import MicroBatches, share_of, steps_from
from mmpt.data.source import Source, SourceSettings
from mmpt.tokens import Content

BUFFER = 1000  # samples that the peers shuffle among
PREFETCH = 4  # batches a worker, for all sides
GOAL = 1.0
Streams = dict[str, Content]


def collate(kind: Kind, samples: Iterable[tuple[Any, str]]) -> Streams:
    """The peers' decoded samples -> what mmpt's loader makes of its own."""
    columns = zip(*samples, strict=True)
    return {
        name: modality.collate([[modality.read(value, 0, 1, None)] for value in values], None)
        for (name, modality), values in zip(kind.modalities.items(), columns, strict=True)
    }


def mmpt_epoch(kind: Kind, folder: Path, tars: list[str], sizes: Sizes, workers: int, seed: int) -> Iterator[Streams]:
    """As mmpt.training.pretrain reads."""
    settings = SourceSettings(shards=folder, streams=tuple(kind.modalities))
    source = Source("tars", 0, settings, kind.modalities, seed)
    steps = sizes.samples // sizes.batch
    batches = MicroBatches([source], [1.0], steps, seed, share_of(sizes.batch, None, 0, 1))
    for (micro,) in steps_from(batches, 0, workers=workers):
        if micro.skips:
            raise SystemExit(f"mmpt skipped a sample: {micro.skips[0].reason}")
        yield micro.batch.streams


def webdataset_epoch(
    kind: Kind, folder: Path, tars: list[str], sizes: Sizes, workers: int, seed: int
) -> Iterator[Streams]:
    """By webdataset's own pipeline."""
    import webdataset

    samples = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=seed).shuffle(BUFFER)
    decoded = samples.decode("pilrgb" if kind.ending == "png" else plainly)
    batches = decoded.to_tuple(kind.ending, "txt").batched(sizes.batch, collation_fn=partial(collate, kind))
    return iter(DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=PREFETCH))


def datasets_epoch(
    kind: Kind, folder: Path, tars: list[str], sizes: Sizes, workers: int, seed: int
) -> Iterator[Streams]:
    """By datasets' reader of WebDataset tars."""
    import datasets

    datasets.disable_progress_bars()
    samples = datasets.load_dataset(
        "webdataset", data_files={"train": tars}, split="train", streaming=True, cache_dir=str(folder / "cache")
    )
    shuffled = samples.shuffle(seed=seed, buffer_size=BUFFER)
    together = partial(_of_datasets, kind)
    return iter(
        DataLoader(shuffled, batch_size=sizes.batch, num_workers=workers, prefetch_factor=PREFETCH, collate_fn=together)
    )


def _of_datasets(kind: Kind, rows: list[dict[str, Any]]) -> Streams:
    return collate(kind, ((row[kind.ending], row["txt"]) for row in rows))


Epoch = Callable[[Kind, Path, list[str], Sizes, int, int], Iterator[Streams]]
SIDES: dict[str, Epoch] = {"mmpt": mmpt_epoch, "webdataset": webdataset_epoch, "datasets": datasets_epoch}


def sides_of(kind: Kind) -> list[str]:
    """All, but without datasets where that decodes by a library of its own choice (sound), or not at all (arrays)."""
    return [name for name in SIDES if name != "datasets" or kind.ending == "png"]


class Reading(NamedTuple):
    """One epoch."""

    samples: int
    rate: float  # samples a second after the first batch


def read(epoch: Iterator[Streams]) -> Reading:
    """To its end."""
    first = len(next(epoch)["text"].values)
    began = time.perf_counter()
    samples = sum(len(streams["text"].values) for streams in epoch)
    return Reading(first + samples, samples / (time.perf_counter() - began))


def contents(epoch: Iterator[Streams]) -> Counter[tuple[int, ...]]:
    """What an epoch holds: a checksum of every stream of every sample, without the padding behind it."""
    seen: Counter[tuple[int, ...]] = Counter()
    for streams in epoch:
        columns = [content.values.numpy() for content in streams.values()]
        seen.update(
            tuple(zlib.crc32(value.tobytes().rstrip(b"\0")) for value in row) for row in zip(*columns, strict=True)
        )
    return seen


def check(kind: Kind, folder: Path, tars: list[str], sizes: Sizes) -> None:
    """Every side reads every sample once, and all decode it alike."""
    found = {name: contents(SIDES[name](kind, folder, tars, sizes, 1, 0)) for name in sides_of(kind)}
    for name, own in found.items():
        if own != found["mmpt"] or own.total() != sizes.samples or len(own) != sizes.samples:
            raise SystemExit(f"{name} read {own.total()} samples, {len(own)} different ones, not those that mmpt read")


@dataclass
class Rates:
    """What was measured of one kind and number of workers."""

    samples: dict[str, int] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)


def measure(kind: Kind, folder: Path, tars: list[str], sizes: Sizes, workers: int, repeats: int) -> Rates:
    """Every side in turns; another one begins every time."""
    names = sides_of(kind)
    measured = Rates(rates={name: [] for name in names})
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            reading = read(SIDES[name](kind, folder, tars, sizes, workers, repeat + 1))
            measured.samples[name] = reading.samples
            measured.rates[name].append(reading.rate)
    return measured


def add_rows(table: Table, what: str, workers: int, measured: Rates) -> None:
    """One row a side."""
    medians = {name: statistics.median(rates) for name, rates in measured.rates.items()}
    fastest = max((name for name in medians if name != "mmpt"), key=medians.__getitem__)
    for name, rates in measured.rates.items():
        ratio = statistics.median(ours / own for ours, own in zip(measured.rates["mmpt"], rates, strict=True))
        table.add_row(
            what,
            str(workers),
            name,
            str(measured.samples[name]),
            f"{medians[name]:.0f}",
            f"{medians[name] / workers:.0f}",
            "" if name == "mmpt" else f"{ratio:.2f} x as fast",
            f"{GOAL} x" if name == fastest else "",
        )
    table.add_section()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of which medians are taken")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of data (default: all)")
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that it runs, says nothing of speed")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")  # torch counts this machine's cores, the peers speak of lengths they can't know
    torch.set_num_threads(1)
    sizes = SMALL if arguments.small else Sizes()
    table = Table(title=f"reading, shuffled: {sizes.samples} samples, batches of {sizes.batch}")
    for name in ("data", "workers", "side", "samples", "samples/s", "a worker", "mmpt is", "goal"):
        table.add_column(name, justify="left" if name in ("data", "side") else "right")
    for what in arguments.kinds:
        kind = KINDS[what]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "tars"
            tars = kind.write(folder, sizes)
            check(kind, folder, tars, sizes)
            for workers in (1, 2):
                add_rows(table, what, workers, measure(kind, folder, tars, sizes, workers, arguments.repeats))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
