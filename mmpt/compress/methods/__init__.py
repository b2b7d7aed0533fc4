"""How a finished run becomes smaller."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from torch import Tensor

from mmpt.data.manifest import Manifest
from mmpt.data.source import Source, SourceSettings, row_draw
from mmpt.downstream.encoder import Encoder
from mmpt.settings import Recipe
from mmpt.tokens import Batch

MARK = "compress.yaml"


class Work(NamedTuple):
    """What a method works on."""

    run: Path  # a run folder, or that of a fitted task
    encoder: Encoder  # of it
    weights: Mapping[str, Tensor]  # of its checkpoint, those of the objective as well
    manifest: Manifest  # of the data set that it may look at
    source: Source  # its samples of one split, in an order of their own
    split: str
    out: Path  # where it may keep what it needs to go on after a stop
    text: str  # of the recipe, complete
    seed: int
    console: Console | None

    def begin(self) -> None:
        """Mark the folder as this recipe's, before anything is kept in it: the same call goes on there."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / MARK).write_text(self.text, encoding="utf-8")

    def batches(self, count: int, size: int) -> list[Batch]:
        """So many batches of so many samples, the same ones in every call."""
        batches = []
        for number in range(count):
            rows = self.source.rows(list(range(number * size, (number + 1) * size)))
            draw = row_draw(self.seed, rows.epoch, rows.uid)
            batches.append(Batch(rows.streams, rows.uid, draw, self.source.name, number).to(self.encoder.device))
        return batches


class Row(NamedTuple):
    """A line of the table of what it cost."""

    what: str
    before: str
    after: str
    trivial: str = ""  # of a score: that of one who never looks at a sample


class Smaller(NamedTuple):
    """What became of it."""

    recipe: Recipe  # that the run folder gets: mmpt.load builds its backbone
    weights: dict[str, Tensor]
    told: dict[str, Any]  # figures of the method, as JSON can hold them
    lines: tuple[str, ...]  # the same for people
    rows: tuple[Row, ...] = ()  # more of the table
    save: Callable[[Path], object] | None = None  # writes the folder, where it is more than a run's


class Method(ABC):
    """Settings are keyword-only. `of_task` says that the run has to be a fitted task."""

    of_task = False

    @abstractmethod
    def smaller(self, work: Work) -> Smaller:
        """Raises ConfigError for what the run can't be made into, before anything is written."""


def source_of(shards: Path, streams: tuple[str, ...], encoder: Encoder, split: str, seed: int) -> Source:
    """Samples in an order of their own."""
    return Source(
        "compression", 0, SourceSettings(shards=shards, streams=streams, split=split), encoder.modalities, seed
    )
