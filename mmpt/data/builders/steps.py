"""Steps that every builder takes: the tokenizer, the end, and the marks of its inputs."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmpt.data.builders.parallel import Draft, Record, build_shards
from mmpt.data.builders.progress import Progress
from mmpt.data.building import Building, nothing_good
from mmpt.data.manifest import Manifest
from mmpt.data.schema import Field
from mmpt.data.shard import Part
from mmpt.data.split import Shares
from mmpt.data.tokenizer import adopt_tokenizer, train_tokenizer
from mmpt.errors import DataError


@runtime_checkable
class Texts(Protocol):
    """Texts of the training split; after a pass it knows how many were good, in training, and bad."""

    good: int
    training: int
    bad: Part

    def __iter__(self) -> Iterator[str]: ...


def make_tokenizer(
    building: Building,
    folder: Path,
    texts: Texts,
    tokenizer: str | Path | None,
    *,
    vocabulary: int,
    algorithm: str,
) -> None:
    """Write the data set's tokenizer folder; a build that fails here leaves nothing behind.

    Args:
        building: the data set's folder.
        folder: where the tokenizer goes.
        texts: what to train on.
        tokenizer: a folder to copy, or None to train.
        vocabulary: of a trained one.
        algorithm: of a trained one.
    """
    try:
        if tokenizer:
            adopt_tokenizer(Path(tokenizer), folder)
            return
        train_tokenizer(texts, folder, vocabulary=vocabulary, algorithm=algorithm)
        if not texts.good:
            raise DataError(nothing_good([texts.bad]))
        if not texts.training:
            raise DataError(
                f"no group of the {texts.good} good texts fell into the training split, which trains the tokenizer"
            )
    except DataError:
        building.discard()
        raise


def make_shards(
    building: Building,
    records: Iterable[Record],
    make: Callable[[Any], Draft],
    *,
    limits: tuple[int, int],
    shares: Shares,
    processes: int,
    progress: Progress,
) -> list[Part]:
    """`build_shards`, saying how far it is."""
    with progress as shown:
        return build_shards(building, records, make, limits=limits, shares=shares, processes=processes, progress=shown)


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


def input_marks(paths: Sequence[Path]) -> str:
    """What tells that inputs changed between a kill and the next try."""
    digest = hashlib.sha256()
    for path in paths:
        state = path.stat()
        digest.update(json.dumps([str(path), state.st_size, state.st_mtime_ns]).encode())
    return digest.hexdigest()
