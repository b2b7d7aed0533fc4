"""One source of a run: a split of a data set, laid out into bins of rows and read by position."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mmpt import randomness
from mmpt.config import Component, component
from mmpt.data.cut import cut
from mmpt.data.far_negatives import FarNegatives, NegativesSettings
from mmpt.data.hard_negatives import HardNegatives, HardSettings
from mmpt.data.layouts import Layout
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.data.token_scores import StoredScores
from mmpt.data.unit_labels import LabelSets, open_labels, unit_places
from mmpt.encoders import Modality
from mmpt.errors import ConfigError, DataError
from mmpt.tokens import Content

UID_SHIFT = 40  # a uid is source << 40 | row: a million million rows a source


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One data set of a run's mixture.

    Args:
        shards: the folder with tars and manifest.
        streams: which of the recipe's streams its samples feed, in one sequence.
        weight: share of the steps, relative to the other sources'.
        split: of the data set.
        layout: how samples become rows.
        units: by stream, the labels that target `units` predicts: a folder of 'mmpt units label', or an MFCC codebook
            (.safetensors), whose labels are computed as samples are read; or a list of them, whose losses add.
        scores: by stream, a scorer's confidence in every token: a folder of 'mmpt units score'.
        negatives: now and then the text of a sample is another's, for losses on pairs.
        hard: samples that are hard to tell from a sample are read along with it, for objective `embedding`.
    """

    shards: Path
    streams: tuple[str, ...]
    weight: float = 1.0
    split: str = "train"
    layout: Component[Layout] = component(Layout, "samples")
    units: dict[str, Path | tuple[Path, ...]] = field(default_factory=dict)
    scores: dict[str, Path] = field(default_factory=dict)
    negatives: NegativesSettings | None = None
    hard: HardSettings | None = None

    def __post_init__(self) -> None:
        if not self.streams:
            raise ValueError("streams: expected at least one stream")
        if self.weight <= 0:
            raise ValueError(f"weight: expected a positive number, got {self.weight}")
        for name, given in (("units", self.units), ("scores", self.scores)):
            for stream in given:
                if stream not in self.streams:
                    raise ValueError(f"{name}: expected one of the streams {', '.join(self.streams)}, got {stream}")
        for stream, places in self.units.items():
            if not unit_places(places):
                raise ValueError(f"units.{stream}: expected at least one folder or codebook")
        self._check_negatives()

    def _check_negatives(self) -> None:
        if self.negatives is None:
            return
        stream = self.negatives.stream
        if stream not in self.streams or len(self.streams) < 2:
            there = ", ".join(self.streams)
            raise ValueError(f"negatives.stream: expected one of several streams, got {stream} of {there}")
        if stream in self.units or stream in self.scores:
            raise ValueError(f"negatives.stream: '{stream}' has units or scores, which are of its own samples' tokens")


class Skip(NamedTuple):
    """A sample that could not be read, and why (the reason names shard and member)."""

    source: str
    key: str
    reason: str


class Rows(NamedTuple):
    """Contents of the streams of some rows, before they go to a device."""

    streams: dict[str, Content]
    uid: torch.Tensor
    epoch: torch.Tensor
    skips: list[Skip]
    readable: list[bool]  # of every sample, in the order of reading
    matched: torch.Tensor | None  # bool (rows): not where a negative stands in for a half
    anchor: torch.Tensor | None  # bool (rows): not where a row was only read along with another


class Source:
    """Bins by number: bin g of the run is bin perm(epoch)[g % num_bins] of epoch g // num_bins."""

    def __init__(
        self, name: str, number: int, settings: SourceSettings, modalities: Mapping[str, Modality], seed: int
    ) -> None:
        manifest = load_manifest(settings.shards)
        self.name, self.number, self.seed = name, number, seed
        self.modalities = {stream: modalities[stream] for stream in settings.streams}
        for stream, modality in self.modalities.items():
            _check_field(name, manifest, stream, modality)
        self.beside = self._beside(settings, manifest)
        self.hard = None
        if settings.hard is not None:
            self.hard = HardNegatives(settings.hard, manifest, f"data.sources.{name}.hard")
        besides = [*self.beside.values(), *([self.hard] if self.hard else [])]
        self.fingerprint = " ".join([manifest.fingerprint(), *(own.fingerprint for own in besides)])
        self.reader = Reader(manifest, list(settings.streams))
        self.samples = manifest.split_rows(settings.split)
        if self.hard is not None:
            self.samples = self.hard.kept(self.samples)
        self.negatives = None
        if settings.negatives is not None:
            where = f"data.sources.{name}.negatives"
            self.negatives = FarNegatives(settings.negatives, manifest, self.samples, seed, where)
        self.pieces = cut(manifest, self.samples, self.modalities)
        self.plan = settings.layout.build().plan(self.pieces, seed)
        if self.plan.row_size is not None and len(self.modalities) > 1:
            raise ConfigError(f"data.sources.{name}.layout: documents of one stream can be packed, joint samples can't")
        if self.plan.row_size is not None and self.hard is not None:
            raise ConfigError(
                f"data.sources.{name}.hard: a packed row is no one sample's; use layout=samples or budget"
            )
        self.row_of: dict[int, int] = {} if self.hard is None else self._first_rows()
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0))

    def _first_rows(self) -> dict[int, int]:
        """By sample; of one that is cut into several, that of its beginning."""
        rows: dict[int, int] = {}
        for row in range(len(self.plan.row_starts) - 1):
            rows.setdefault(int(self.pieces.sample[self.plan.pieces(row)[0]]), row)
        return rows

    def _beside(self, settings: SourceSettings, manifest: Manifest) -> dict[tuple[str, str], LabelSets | StoredScores]:
        """What the source has of the tokens of a stream, by its kind and the stream."""
        where, beside = f"data.sources.{self.name}", {}
        for stream, places in settings.units.items():
            modality = self.modalities[stream]
            sets = [
                open_labels(place, stream, manifest, modality, f"{where}.units.{stream}")
                for place in unit_places(places)
            ]
            beside["units", stream] = LabelSets(sets)
        for stream, place in settings.scores.items():
            modality = self.modalities[stream]
            beside["scores", stream] = StoredScores(place, stream, manifest, modality, f"{where}.scores.{stream}")
        return beside

    @property
    def tokens_per_epoch(self) -> int:
        """Useful tokens, specials included."""
        return int(self.pieces.tokens.sum())

    def rows(self, bins: list[int]) -> Rows:
        """Read and collate the bins with these run-wide numbers."""
        places = [divmod(number, self.plan.num_bins) for number in bins]
        chosen = [(epoch, row) for epoch, place in places for row in self.plan.rows(int(self.shuffled(epoch)[place]))]
        anchors = len(chosen)
        chosen += [(epoch, other) for epoch, row in chosen for other in self._along(epoch, row)]
        skips: list[Skip] = []
        documents: dict[str, list[list[np.ndarray]]] = {stream: [] for stream in self.modalities}
        beside: dict[tuple[str, str], list[np.ndarray | None]] = {which: [] for which in self.beside}
        readable: list[bool] = []
        uid = torch.tensor([self.number << UID_SHIFT | row for _, row in chosen])
        epoch = torch.tensor([epoch for epoch, _ in chosen])
        draws = row_draw(self.seed, epoch, uid).tolist()
        for (_, row), draw in zip(chosen, draws, strict=True):
            readable += self._read_row(self.plan.pieces(row), draw, documents, beside, skips)
        streams = {
            name: modality.collate(documents[name], self.plan.row_size) for name, modality in self.modalities.items()
        }
        for which, rows in beside.items():
            streams[which[1]] = self.beside[which].joined(streams[which[1]], rows)
        anchor = None if self.hard is None else torch.arange(len(chosen)) < anchors
        return Rows(streams, uid, epoch, skips, readable, self._matched([row for _, row in chosen], draws), anchor)

    def _along(self, epoch: int, row: int) -> list[int]:
        """Rows that are read along with a row; a sample that was filtered out of the split can't be one."""
        if self.hard is None:
            return []
        uid = torch.tensor([self.number << UID_SHIFT | row])
        (draw,) = row_draw(self.seed, torch.full_like(uid, epoch), uid).tolist()
        sample = int(self.pieces.sample[self.plan.pieces(row)[0]])
        return [self.row_of[other] for other in self.hard.along(sample, draw) if other in self.row_of]

    def _matched(self, rows: list[int], draws: list[int]) -> torch.Tensor | None:
        if self.negatives is None:
            return None
        samples = [int(self.pieces.sample[self.plan.pieces(row)[0]]) for row in rows]
        own = [self.negatives.instead_of(*which) is None for which in zip(samples, draws, strict=True)]
        return torch.tensor(own, dtype=torch.bool)

    def _read_row(
        self,
        pieces: np.ndarray,
        draw: int,
        documents: dict[str, list[list[np.ndarray]]],
        beside: dict[tuple[str, str], list[np.ndarray | None]],
        skips: list[Skip],
    ) -> list[bool]:
        """Add a row's documents, what stands beside them and what was skipped; returns which samples could be read."""
        readable = []
        row: dict[str, list[np.ndarray]] = {stream: [] for stream in self.modalities}
        labels: dict[tuple[str, str], list[np.ndarray]] = {which: [] for which in self.beside}
        for piece in pieces:
            sample = int(self.pieces.sample[piece])
            try:
                values, own = self._read_piece(
                    sample, int(self.pieces.start[piece]), int(self.pieces.stop[piece]), draw
                )
            except DataError as error:
                skips.append(Skip(self.name, str(self.reader.key[sample]), str(error)))
                readable.append(False)
                continue
            readable.append(True)
            for stream, value in values.items():
                row[stream].append(value)
            for which, value in own.items():
                labels[which].append(value)
        for stream, value in row.items():
            documents[stream].append(value)
        for which, of_row in labels.items():
            beside[which].append(np.concatenate(of_row) if of_row else None)
        return readable

    def read_sample(self, sample: int, start: int, stop: int, draw: int | None) -> dict[str, np.ndarray]:
        """Values of one piece by stream; streams that the sample lacks are left out."""
        return self._read_piece(sample, start, stop, draw)[0]

    def _read_piece(
        self, sample: int, start: int, stop: int, draw: int | None
    ) -> tuple[dict[str, np.ndarray], dict[tuple[str, str], np.ndarray]]:
        """Values of one piece by stream, and what stands beside them."""
        values, beside = {}, {}
        whole = len(self.modalities) > 1
        fields = self.reader.read(sample)
        other = None if self.negatives is None or draw is None else self.negatives.instead_of(sample, draw)
        if self.negatives is not None and other is not None:
            fields[self.negatives.stream] = self.negatives.text(other)
        for stream, value in fields.items():
            modality = self.modalities[stream]
            piece = (0, modality.limit) if whole else (start, stop)
            own = {which: labels for which, labels in self.beside.items() if which[1] == stream}
            try:
                read = values[stream] = modality.read(value, *piece, draw)
                beside |= {which: labels.tokens(sample, value, piece, read) for which, labels in own.items()}
            except DataError as error:
                raise DataError(f"{self.reader.place(sample)}: member '{stream}': {error}") from error
        return values, beside

    def shuffled(self, epoch: int) -> np.ndarray:
        if self._permutation[0] != epoch:
            order = randomness.permutation(self.plan.num_bins, self.seed, self.number, epoch, "order")
            self._permutation = (epoch, order.numpy())
        return self._permutation[1]

    def keys_of(self, row: int) -> list[str]:
        """Keys of the samples in a row."""
        return [str(self.reader.key[self.pieces.sample[piece]]) for piece in self.plan.pieces(row)]


def row_draw(seed: int, epoch: torch.Tensor, uid: torch.Tensor) -> torch.Tensor:
    """The key of every random number of a row, int64 (B)."""
    start = torch.tensor(randomness.key(seed, "rows"), dtype=torch.int64)
    return randomness.fold(randomness.fold(start, epoch), uid)


def _check_field(source: str, manifest: Manifest, stream: str, modality: Modality) -> None:
    if stream not in manifest.fields:
        there = ", ".join(manifest.fields)
        raise ConfigError(f"data.sources.{source}: {manifest.folder} has no field '{stream}'; it has {there}")
    kind = manifest.fields[stream].kind
    if kind != modality.kind:
        raise ConfigError(
            f"data.sources.{source}: field '{stream}' of {manifest.folder} is {kind}, but the recipe reads it as "
            f"{modality.kind}"
        )
