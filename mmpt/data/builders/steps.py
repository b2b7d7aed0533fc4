"""Steps that every builder takes: the tokenizer, the shards, and the manifest of a data set."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.data.builders.parallel import Draft, Record, build_shards, check_work
from mmpt.data.builders.progress import Progress
from mmpt.data.builders.texts import LABELS, Texts, text_fields, token_statistics, tokenizer_folder
from mmpt.data.building import Building
from mmpt.data.manifest import Manifest
from mmpt.data.schema import Field
from mmpt.data.shard import Part
from mmpt.data.split import Shares, check_shares
from mmpt.errors import DataError


@dataclass(frozen=True)
class Work:
    """What every builder is told beside its own settings; raises DataError for what can't be used.

    Args:
        out: the data set's folder.
        tokenizer: a folder to copy, or None to train one.
        vocabulary: of a trained one.
        algorithm: of a trained one.
        limits: records and bytes of input a shard at most.
        processes: how many work.
        shares: of the splits.
        shown: say on stderr how far it is.
    """

    out: str | Path
    tokenizer: str | Path | None
    vocabulary: int
    algorithm: str
    limits: tuple[int, int]
    processes: int
    shares: Shares
    shown: bool

    def __post_init__(self) -> None:
        check_work(self.limits, self.processes)
        object.__setattr__(self, "shares", check_shares(self.shares))

    @property
    def plan(self) -> dict[str, Any]:
        """As far as it decides the result."""
        trained = {"vocabulary": self.vocabulary, "algorithm": self.algorithm}
        return {
            "tokenizer": str(self.tokenizer) if self.tokenizer else trained,
            "limits": list(self.limits),
            "split": list(self.shares),
        }


def build_data_set(
    work: Work,
    plan: Mapping[str, Any],
    inputs: Sequence[Path],
    records: Iterable[Record],
    make: Callable[[Path | None], Callable[[Any], Draft]],
    *,
    texts: Texts | None,
    fields: Mapping[str, Field],
    statistics: Callable[[list[Part]], Mapping[str, Any]],
    rejected: Part,
    what: str,
) -> Manifest:
    """Make all that is not there yet of a data set.

    Args:
        work: what every builder is told.
        plan: the builder's name and own settings.
        inputs: files that must not change between a kill and the next try.
        records: in an order that does not change between runs.
        make: what makes samples of records, from the tokenizer's folder, or None without texts.
        texts: what the tokenizer is trained on.
        fields: beside labels and text.
        statistics: by field, from the finished parts.
        rejected: what was left out before.
        what: the records, for people.
    """
    plan = {**plan, **work.plan, "inputs": input_marks(inputs)}
    with Building(Path(work.out), plan) as building:
        if building.complete:
            return building.tidy()
        folder = None
        if texts is not None:
            folder = tokenizer_folder(
                building, texts, work.tokenizer, vocabulary=work.vocabulary, algorithm=work.algorithm
            )
        total = len(records) if isinstance(records, Sized) else None
        with Progress(what, total, shown=work.shown) as progress:
            parts = build_shards(
                building,
                records,
                make(folder),
                limits=work.limits,
                shares=work.shares,
                processes=work.processes,
                progress=progress,
            )
        fields = {**fields, "labels": LABELS, **text_fields(folder)}
        return finish(building, fields, parts, {**statistics(parts), "text": token_statistics(parts)}, rejected)


def finish(
    building: Building, fields: Mapping[str, Field], parts: list[Part], statistics: Mapping[str, Any], rejected: Part
) -> Manifest:
    """The manifest, or nothing at all where there is no good sample; fields that no sample has are left out."""
    used = {name for part in parts for row in part.rows for name in fields if f"{name}.offset" in row}
    fields = {name: own for name, own in fields.items() if name in used}
    try:
        return building.finish(fields, parts, statistics=statistics, rejected=rejected)
    except DataError:
        building.discard()
        raise


def first_notes(parts: Sequence[Part]) -> dict[str, list[str]]:
    """By kind, the first sentences that shards noted about their inputs."""
    total = Part()
    for part in parts:
        for kind, own in part.notes.items():
            for told in own:
                total.note({kind: told})
    return {kind: total.notes[kind] for kind in sorted(total.notes)}


def indented_notes(statistics: Mapping[str, Any], kind: str) -> list[str]:
    """Those of a kind for a summary, below its count; none in a manifest of before there were any."""
    return [f"  {told}" for told in statistics.get("notes", {}).get(kind, [])]


def input_marks(paths: Sequence[Path]) -> str:
    """What tells that inputs changed between a kill and the next try."""
    digest = hashlib.sha256()
    for path in paths:
        state = path.stat()
        digest.update(json.dumps([str(path), state.st_size, state.st_mtime_ns]).encode())
    return digest.hexdigest()


def path_of(path: str | Path | None) -> str | None:
    """As a plan has it."""
    return str(path) if path else None
