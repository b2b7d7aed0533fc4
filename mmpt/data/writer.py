"""ShardWriter: samples from Python into WebDataset tars with a manifest."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpt.data.building import Building
from mmpt.data.encode import encode
from mmpt.data.manifest import Manifest
from mmpt.data.schema import Field, declare
from mmpt.data.shard import Part, ShardFile, check_key
from mmpt.data.split import Shares, check_shares, split_of
from mmpt.data.tokenizer import FOLDER, adopt_tokenizer, read_tokenizer, tokenizer_facts
from mmpt.errors import DataError

DEFAULT_FIELDS = {"image": "png", "text": "txt", "labels": "json"}
DEFAULT_SHARES = (0.8, 0.1, 0.1)
SHARD_BYTES = 512 * 2**20
SPECIAL_KEYS = ("__key__", "__group__", "__split__")


class ShardWriter:
    """Writes samples into shards of a new data set; a context manager.

        with ShardWriter("data/birds", fields={"image": "jpg", "labels": "json"}) as writer:
            writer.write({"image": picture, "labels": {"species": "wren"}, "__group__": "photographer 7"})

    A sample is a dict with any of the declared fields, and may say `__key__` (default: its number), `__group__`
    (default: its key; samples of a group share a split) and `__split__` (default: from a hash of the group). Values:
    text str; image PIL image or uint8 array (H W or H W C); json dict; array ndarray; audio (array, rate in Hz); or
    ready-made bytes, which are stored unchanged after a full decode.

    Killed or failed, the same program run again skips what finished shards hold. `manifest` is there after the block.

    Args:
        folder: new or empty, or half-built by the same settings.
        fields: ending, or endings, of every field's member, or Field objects for fields with facts.
        samples_per_shard: samples a tar at most.
        shard_bytes: bytes a tar at most, but for a single larger sample.
        split: shares of train, validation and test among groups.
        tokenizer: a local transformers tokenizer folder, copied into the data set; text lengths are in its tokens.
            Without it they are in characters.

    Raises:
        DataError: by the constructor for a folder in use or bad settings, by `write` for a sample that can't be stored
            as it is. Nothing is cut, renamed or dropped silently.
    """

    def __init__(
        self,
        folder: str | Path,
        fields: Mapping[str, str | tuple[str, ...] | Field] = DEFAULT_FIELDS,
        *,
        samples_per_shard: int = 1000,
        shard_bytes: int = SHARD_BYTES,
        split: Shares = DEFAULT_SHARES,
        tokenizer: str | Path | None = None,
    ) -> None:
        if samples_per_shard < 1 or shard_bytes < 1:
            raise DataError("samples_per_shard and shard_bytes must be at least 1")
        self.folder = Path(folder)
        self.fields = {name: own if isinstance(own, Field) else declare(name, own) for name, own in fields.items()}
        self.manifest: Manifest | None = None
        self._limits = (samples_per_shard, shard_bytes)
        self._shares = check_shares(split)
        self._source = Path(tokenizer) if tokenizer else None
        self._tokenizer = None
        self._seen: dict[str, str] = {}  # key or group -> split, under different first letters
        self._parts: list[Part] = []
        self._count = 0
        self._shard: ShardFile | None = None
        _check_endings(self.fields)

    def __enter__(self) -> "ShardWriter":
        plan = {
            "builder": "ShardWriter",
            "fields": {name: [list(own.members), own.facts] for name, own in self.fields.items()},
            "limits": list(self._limits),
            "split": list(self._shares),
            "tokenizer": str(self._source) if self._source else None,
        }
        self._building = Building(self.folder, plan)
        if self._building.complete:
            self._building.tidy()
            self._building.__exit__()
            raise DataError(f"{self.folder}: there is a data set already; choose another folder or remove it")
        if self._source:
            self._adopt(self._source)
        self._old_rows = self._replay()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._close_shard()
                self.manifest = self._finish()
            elif self._shard:
                self._shard.__exit__()
        finally:
            self._building.__exit__()

    def write(self, sample: Mapping[str, Any]) -> None:
        """Add one sample; see the class."""
        key = sample.get("__key__", f"{self._count:09d}")
        group = sample.get("__group__", key)
        values = {name: value for name, value in sample.items() if name not in SPECIAL_KEYS}
        self._check(key, group, values)
        split = self._decide_split(group, sample.get("__split__"))
        old = next(self._old_rows, None)
        if old:
            self._compare(old, key, group, split)
        else:
            self._add(key, group, split, values)
        self._seen[f"k{key}"] = split
        self._seen[f"g{group}"] = split
        self._count += 1

    def _add(self, key: str, group: str, split: str, values: Mapping[str, Any]) -> None:
        try:
            members = {name: encode(self.fields[name], value, self._tokenizer) for name, value in values.items()}
        except DataError as error:
            raise DataError(f"{self.folder}: sample {key}: {error}") from error
        check_key(key, members.values())
        size = sum(len(member.data) for member in members.values())
        samples, limit = self._limits
        if self._shard and (len(self._shard.part.rows) == samples or self._shard.bytes + size > limit):
            self._close_shard()
        if self._shard is None:
            self._shard = ShardFile(self.folder, self._building.hidden, len(self._parts))
        self._shard.add(key, members, group, split)

    def _check(self, key: str, group: str, values: Mapping[str, Any]) -> None:
        check_key(key)
        if f"k{key}" in self._seen:
            raise DataError(f"{self.folder}: key {key!r} was written before; keys must differ")
        if not isinstance(group, str) or not group:
            raise DataError(f"{self.folder}: sample {key}: __group__ is a non-empty str, got {group!r}")
        if not values:
            raise DataError(f"{self.folder}: sample {key} is empty; it needs one of {', '.join(self.fields)}")
        for name in values:
            if name not in self.fields:
                near = difflib.get_close_matches(name, self.fields, 1) or [", ".join(self.fields)]
                raise DataError(f"{self.folder}: sample {key}: field '{name}' is not declared; did you mean {near[0]}?")

    def _decide_split(self, group: str, stated: str | None) -> str:
        before = self._seen.get(f"g{group}")
        split = stated or before or split_of(group, self._shares)
        if not isinstance(split, str) or not split.isidentifier():
            raise DataError(f"{self.folder}: __split__ is a plain name such as train, got {split!r}")
        if before and split != before:
            raise DataError(f"{self.folder}: group {group!r} is in split {before} already and can't be in {split} too")
        return split

    def _compare(self, old: Mapping[str, Any], key: str, group: str, split: str) -> None:
        if (old["key"], old["group"], old["split"]) != (key, group, split):
            raise DataError(
                f"{self.folder}: half-built from other samples: number {self._count} was {old['key']}, now it is "
                f"{key}; write the same samples in the same order, or remove the folder"
            )

    def _replay(self) -> Iterator[dict[str, Any]]:
        """Rows of the shards that an earlier run finished."""
        while part := self._building.finished(len(self._parts)):
            self._parts.append(part)
        return (row for part in list(self._parts) for row in part.rows)

    def _adopt(self, source: Path) -> None:
        adopt_tokenizer(source, self.folder / FOLDER)
        facts = tokenizer_facts(self.folder / FOLDER)
        self._tokenizer = read_tokenizer(self.folder / FOLDER)
        for name, own in self.fields.items():
            if own.kind == "text":
                self.fields[name] = Field(name, own.kind, own.members, {**own.facts, **facts})

    def _close_shard(self) -> None:
        if self._shard:
            with self._shard as shard:
                self._parts.append(shard.publish())
            self._shard = None

    def _finish(self) -> Manifest:
        if next(self._old_rows, None):
            raise DataError(
                f"{self.folder}: fewer samples than the finished shards hold; remove the folder to start anew"
            )
        if not self._parts:
            self._building.discard()
            raise DataError(f"{self.folder}: no sample was written")
        return self._building.finish(self.fields, self._parts, statistics={}, rejected=Part())


def _check_endings(fields: Mapping[str, Field]) -> None:
    owners: dict[str, str] = {}
    for name, own in fields.items():
        if name.startswith("__"):
            raise DataError(f"field '{name}': names with a leading __ are taken")
        for ending in own.members:
            if owner := owners.get(ending):
                raise DataError(f"fields '{owner}' and '{name}' both have .{ending}; use for example '{name}.{ending}'")
            owners[ending] = name
