"""Which row of training a sample stands in, and in which step it was drawn."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmpt.build import build_sources, source_weights
from mmpt.data.manifest import Manifest
from mmpt.data.mixture import schedule
from mmpt.data.source import Source
from mmpt.downstream.pretrained import Pretrained
from mmpt.errors import DataError
from mmpt.report.reconstructions import fingerprints


class Drawn(NamedTuple):
    """A sample's first piece, where the run's loader has it."""

    source: Source
    piece: int
    pieces: int  # that the sample was cut into
    place: int  # of its bin, among those of an epoch
    bin: int  # run-wide number
    epoch: int
    step: int | None  # in which it was drawn; None: the run ends before


def source_of(pretrained: Pretrained, manifest: Manifest, sample: int, streams: Sequence[str] | None) -> Source | None:
    """The source of the run that trains on this sample; of several the first with exactly these streams, or any."""
    known, fingerprint = fingerprints(pretrained.run), manifest.fingerprint()
    split = str(manifest.column("split")[sample])
    for number, (name, settings) in enumerate(pretrained.recipe.data.sources.items()):
        wanted = streams is None or set(streams) == set(settings.streams)
        if not wanted or known.get(name) != fingerprint or settings.split != split:
            continue
        here = dataclasses.replace(settings, shards=manifest.folder)
        source = Source(name, number, here, pretrained.modalities, pretrained.recipe.training.seed)
        if (source.pieces.sample == sample).any():
            return source
    return None


def drawn(pretrained: Pretrained, source: Source, sample: int, step: int) -> Drawn:
    """The last time that the sample was drawn up to this step, or the first time after it."""
    own = np.flatnonzero(source.pieces.sample == sample)
    row = int(np.searchsorted(source.plan.row_starts, np.flatnonzero(source.plan.order == own[0])[0], "right")) - 1
    place = int(np.searchsorted(source.plan.bin_starts, row, "right")) - 1
    turns = _turns(pretrained, source)
    size = pretrained.recipe.data.batch_size
    taken = size * int(np.searchsorted(turns, step, "right"))
    last = max(taken - 1, 0) // source.plan.num_bins
    numbers = (_number(source, place, epoch) for epoch in range(last, -1, -1))
    number = next((number for number in numbers if number < taken), _number(source, place, 0))
    turn = number // size
    at = int(turns[turn]) if turn < len(turns) else None
    return Drawn(source, int(own[0]), len(own), place, number, number // source.plan.num_bins, at)


def place_in(drawn: Drawn, readable: Sequence[bool]) -> tuple[int, int]:
    """The row of the bin that the piece is in, and which of the row's documents it is, unreadable ones left out."""
    plan, read = drawn.source.plan, iter(readable)
    for number, row in enumerate(plan.rows(drawn.place)):
        document = 0
        for piece in plan.pieces(row):
            if piece == drawn.piece:
                return number, document
            document += next(read)
    raise ValueError(f"piece {drawn.piece} is not in bin {drawn.place}")


def _turns(pretrained: Pretrained, source: Source) -> np.ndarray:
    """The steps that draw this source, in order."""
    recipe = pretrained.recipe
    by_size = recipe.data.temperature is not None
    weights = source_weights(recipe, build_sources(recipe, pretrained.modalities) if by_size else [])
    chosen = schedule(weights, recipe.training.steps, recipe.training.seed)
    return np.flatnonzero(chosen == source.number)


def _number(source: Source, place: int, epoch: int) -> int:
    """The run-wide number that a bin has in an epoch."""
    return epoch * source.plan.num_bins + int(np.flatnonzero(source.shuffled(epoch) == place)[0])


def find_sample(manifest: Manifest, key: str) -> int:
    """The row of the manifest; raises DataError with the nearest keys."""
    rows = np.flatnonzero(manifest.column("key") == key)
    if len(rows):
        return int(rows[0])
    near = difflib.get_close_matches(key, [str(other) for other in manifest.column("key")], n=1, cutoff=0.0)
    advice = f"; the nearest is '{near[0]}'" if near else ""
    raise DataError(f"{manifest.folder}: no sample has the key '{key}'{advice}")
