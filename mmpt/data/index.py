"""`mmpt index`: a manifest for tars that someone else wrote; the tars stay as they are."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mmpt.data.builders.images import picture_statistics, pixel_sums
from mmpt.data.builders.parallel import run_tasks
from mmpt.data.builders.progress import Progress
from mmpt.data.building import assemble
from mmpt.data.decode import decode
from mmpt.data.encode import measure
from mmpt.data.grouping import Sample, endings_of, group_members, split_name
from mmpt.data.halves import find_halves
from mmpt.data.manifest import Manifest, Shard, load_manifest, save_manifest, sha256_of
from mmpt.data.rates import settle_rates
from mmpt.data.schema import KINDS, REFUSED, Field, declare
from mmpt.data.shard import Part
from mmpt.data.split import Shares, check_shares, split_of
from mmpt.data.tarscan import scan_tar
from mmpt.data.tokenizer import FOLDER, adopt_tokenizer, kept_tokenizer, token_ids, tokenizer_facts, train_tokenizer
from mmpt.data.writer import DEFAULT_SHARES
from mmpt.errors import DataError

NAMES = {"text": "text", "image": "image", "json": "labels", "audio": "audio", "array": "array", "video": "video"}


class IndexTask(NamedTuple):
    """One tar to look through."""

    path: Path
    name: str
    fields: Mapping[str, Field]
    shares: Shares
    group_key: str


class LengthTask(NamedTuple):
    """The texts of one tar to count: (offset, size) each."""

    path: Path
    places: list[tuple[int, int]]
    tokenizer: Path


def index_folder(
    folder: str | Path,
    *,
    fields: Mapping[str, str | tuple[str, ...] | Field] | None = None,
    tokenizer: str | Path | None = None,
    vocabulary: int = 8192,
    algorithm: str = "bpe",
    group_key: str = "group",
    split: Shares = DEFAULT_SHARES,
    processes: int = 1,
    progress: bool = False,
) -> Manifest:
    """Write `manifest.json` beside existing WebDataset tars, after reading and decoding every member once.

    Args:
        folder: searched for .tar files to the bottom; shard names are paths below it.
        fields: ending(s) of every field, for example `{"image": "jpg", "seg": "seg.png"}`; None finds them out: text,
            image, labels (json), audio, array. An ending with a dot inside has to be declared.
        tokenizer: for a text field: a local transformers tokenizer folder; None takes `folder/tokenizer` or trains one.
        vocabulary: of a trained tokenizer.
        algorithm: `bpe` or `wordpiece`.
        group_key: key in the JSON field whose value keeps samples in one split; without it the sample's key does.
        split: shares of train, validation and test among groups.
        processes: how many work; the result does not depend on it.
        progress: say on stderr how far it is.

    Returns:
        The manifest; whatever is left out stands in `rejected` with shard and member. A sample with an undecodable
        member is left out whole. Keys are unique in a shard, not across shards.

    Raises:
        DataError: no tar, no good sample, or the folder has a manifest that a builder wrote.
    """
    folder, shares = Path(folder), check_shares(split)
    tars = find_tars(folder)
    declared = {n: f if isinstance(f, Field) else declare(n, f) for n, f in (fields or {}).items()} or infer_fields(
        tars
    )
    tasks = [IndexTask(path, path.relative_to(folder).as_posix(), declared, shares, group_key) for path in tars]
    with Progress("tars", len(tasks), shown=progress) as shown:
        parts = []
        for part in run_tasks(index_tar, tasks, processes):
            parts.append(part)
            shown.advance()
    declared = settle_rates(parts, declared)
    origin: dict[str, Any] = {"builder": "index", "group_key": group_key, "split": list(shares)}
    statistics: dict[str, Any] = {"image": picture_statistics(parts)} if "image" in declared else {}
    if halves := find_halves(parts, declared):
        origin["halves"] = halves
    # found out before a tokenizer is trained: nothing good means nothing written
    assemble(folder, declared, parts, statistics=statistics, rejected=Part(), origin=origin)
    for name, own in declared.items():
        if own.kind == "text":
            facts = _tokenizer_facts(folder, parts, name, tokenizer, vocabulary=vocabulary, algorithm=algorithm)
            declared = declared | {name: Field(name, own.kind, own.members, {**own.facts, **facts})}
            count_tokens(folder, parts, name, processes)
    manifest = assemble(folder, declared, parts, statistics=statistics, rejected=Part(), origin=origin)
    save_manifest(manifest)
    return manifest


def find_tars(folder: Path) -> list[Path]:
    """Tars in a fixed order; raises DataError if there is none, or a builder's manifest that would be lost."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    if (folder / ".building").exists():
        raise DataError(f"{folder}: half-built; run its 'mmpt build' again instead of indexing it")
    try:
        builder = load_manifest(folder).origin.get("builder", "index")
    except DataError:
        builder = "index"  # none, or damaged: that is what indexing is for
    if builder != "index":
        raise DataError(f"{folder}: has the manifest that 'mmpt build' wrote ({builder}); there is nothing to index")
    tars = sorted(p for p in folder.rglob("*.tar") if p.is_file() and not p.name.startswith("."))
    if not tars:
        raise DataError(f"{folder}: there is no .tar file in it")
    return tars


def infer_fields(tars: Sequence[Path]) -> dict[str, Field]:
    """Fields from the plain endings that occur; raises DataError if none has a decoder."""
    found = {ending for path in tars for ending in endings_of(scan_tar(path).members)}
    fields: dict[str, Field] = {}
    for kind, endings in KINDS.items():
        if here := tuple(ending for ending in endings if ending in found):
            name = NAMES[kind]
            if kind == "json" and len(here) > 1:
                fields["cls"], here = declare("cls", "cls"), tuple(ending for ending in here if ending != "cls")
            fields[name] = declare(name, here)
    if not fields:
        refused = sorted(found & set(REFUSED))
        why = f"; .{refused[0]} members hold pickled objects, which can run code" if refused else ""
        shown = ", ".join(f".{ending}" for ending in sorted(found)[:10]) or "none"
        raise DataError(f"{tars[0].parent}: no member has a decoder; endings there: {shown}{why}")
    return fields


def index_tar(task: IndexTask) -> Part:
    """Check every sample of one tar; the work of one process."""
    part = Part()
    scan = scan_tar(task.path)
    for name, reason in scan.refused:
        part.reject(f"{task.name}: {name}", reason)
    samples = group_members(scan.members, task.fields, lambda name, why: part.reject(f"{task.name}: {name}", why))
    if scan.damage:
        part.reject(task.name, scan.damage)
        touched = split_name(scan.cut or scan.members[-1].name)[0] if scan.members else ""
        if samples and samples[-1].key == touched:
            last = samples.pop()
            part.reject(f"{task.name}: {last.key}", "the last sample before the damage; it may be half")
    with task.path.open("rb") as file:
        for sample in samples:
            try:
                _check_sample(sample, task, file, part)
            except DataError as error:
                part.reject(f"{task.name}: {sample.key}", str(error))
    part.shard = Shard(task.name, task.path.stat().st_size, sha256_of(task.path), len(part.rows)) if part.rows else None
    return part


def count_tokens(folder: Path, parts: Sequence[Part], name: str, processes: int) -> None:
    """Replace the field's lengths in characters by lengths in tokens."""
    with_text = [[row for row in part.rows if f"{name}.offset" in row] for part in parts]
    tasks = [
        LengthTask(folder / part.shard.name, [_place(row, name) for row in rows], folder / FOLDER)
        for part, rows in zip(parts, with_text, strict=True)
        if part.shard
    ]
    filled = (rows for part, rows in zip(parts, with_text, strict=True) if part.shard)
    for rows, lengths in zip(filled, run_tasks(token_lengths, tasks, processes), strict=True):
        for row, length in zip(rows, lengths, strict=True):
            row[f"{name}.length"] = length


def token_lengths(task: LengthTask) -> list[int]:
    """Tokens of the texts at the places of one tar."""
    tokenizer = kept_tokenizer(task.tokenizer)
    return [len(token_ids(tokenizer, text)) for text in _texts(task.path, task.places)]


def _check_sample(sample: Sample, task: IndexTask, file: Any, part: Part) -> None:
    row: dict[str, Any] = {"key": sample.key, "group": sample.key}
    tally: dict[str, list[int]] = {}
    observed: dict[str, int] = {}
    for name, member in sample.members.items():
        file.seek(member.offset)
        data = file.read(member.size)
        try:
            value = decode(task.fields[name], data)
        except DataError as error:
            raise DataError(f"member '{member.name}': {error}") from error
        row |= {f"{name}.offset": member.offset, f"{name}.size": member.size, f"{name}.crc32": zlib.crc32(data)}
        row[f"{name}.length"] = measure(task.fields[name], value, None)
        if task.fields[name].kind == "audio":
            row[f"{name}.rate"] = value[1]
        if isinstance(value, dict) and value.get(task.group_key) not in (None, ""):
            row["group"] = str(value[task.group_key])
        if isinstance(value, Image.Image):
            tally, observed = pixel_sums(value), {"width": value.width, "height": value.height}
    row["split"] = split_of(row["group"], task.shares)
    if row["split"] == "train":
        part.add_tally(tally)
    for name, value in observed.items():
        part.observed.setdefault(name, []).append(value)
    part.rows.append(row)


def _tokenizer_facts(
    folder: Path, parts: Sequence[Part], name: str, tokenizer: str | Path | None, *, vocabulary: int, algorithm: str
) -> dict[str, Any]:
    own = folder / FOLDER
    if tokenizer:
        adopt_tokenizer(Path(tokenizer), own)
    elif not own.exists():
        texts = list(_training_texts(folder, parts, name))
        if not texts:
            raise DataError(
                f"{folder}: no text in the training split to train a tokenizer on; give one with --tokenizer"
            )
        train_tokenizer(texts, own, vocabulary=vocabulary, algorithm=algorithm)
    return tokenizer_facts(own)


def _training_texts(folder: Path, parts: Sequence[Part], name: str) -> Iterator[str]:
    for part in parts:
        rows = [row for row in part.rows if row["split"] == "train" and f"{name}.offset" in row]
        if part.shard:
            yield from _texts(folder / part.shard.name, [_place(row, name) for row in rows])


def _texts(path: Path, places: Sequence[tuple[int, int]]) -> Iterator[str]:
    with path.open("rb") as file:
        for offset, size in places:
            file.seek(offset)
            yield file.read(size).decode("utf-8")


def _place(row: Mapping[str, Any], name: str) -> tuple[int, int]:
    return row[f"{name}.offset"], row[f"{name}.size"]
