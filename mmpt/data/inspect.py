"""`mmpt inspect`: is a data set what its manifest says, and what is in it?"""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mmpt.data.builders.parallel import run_tasks
from mmpt.data.builders.progress import Progress
from mmpt.data.decode import decode
from mmpt.data.manifest import Manifest, Shard, load_manifest, sha256_of
from mmpt.data.schema import Field
from mmpt.data.shard import KEPT_REJECTIONS
from mmpt.errors import DataError

BARS = " ▁▂▃▄▅▆▇█"
BINS = 32
SHOWN_LABELS = 12
SHOWN_REASONS = 5
SHOWN_LETTERS = 200
THUMB, COLUMNS, PICTURES, LINE = 96, 8, 48, 14


class ShardTask(NamedTuple):
    """One tar to verify."""

    folder: Path
    shard: Shard
    fields: Mapping[str, Field]
    rows: list[dict[str, Any]]


class ShardResult(NamedTuple):
    """What verifying a tar found: (place, reason), and the values of `label`."""

    problems: list[tuple[str, str]]
    labels: Counter[str]


@dataclass(frozen=True)
class Inspection:
    """What an inspection found.

    Args:
        manifest: the data set's.
        problems: `{"input": shard: key: member, "reason": ...}`; empty where all is well.
        labels: how often every value of `label` occurs.
        samples: a few samples as text.
        contact_sheet: the written picture, if there are pictures and one was asked for.
    """

    manifest: Manifest
    problems: tuple[Mapping[str, str], ...]
    labels: Mapping[str, int]
    samples: tuple[str, ...]
    contact_sheet: Path | None

    def report(self) -> str:
        """All of it for a terminal."""
        lines = [*_head(self.manifest), *_labels(self.labels)]
        for name, own in self.manifest.fields.items():
            lines += _lengths(self.manifest, name, own)
        lines += ["", *self.samples] if self.samples else []
        lines += _reasons(self.manifest)
        if self.contact_sheet:
            lines.append(f"contact sheet: {self.contact_sheet}")
        lines.append(
            f"{len(self.problems)} problems:" if self.problems else "no problems: checksums and contents are right"
        )
        lines += [f"  {problem['input']}: {problem['reason']}" for problem in self.problems]
        return "\n".join(lines)


def inspect_folder(
    folder: str | Path,
    *,
    samples: int = 3,
    contact_sheet: str | Path | None = None,
    processes: int = 1,
    progress: bool = False,
) -> Inspection:
    """Verify every checksum, decode every member, and gather what a person wants to know.

    Args:
        folder: a data set with a manifest.
        samples: how many to show, evenly spread.
        contact_sheet: a PNG to write with up to 48 pictures, evenly spread; nothing is written without pictures.
        processes: how many work.
        progress: say on stderr how far it is.

    Returns:
        `problems`, empty where all is well, counts of labels, samples as text; `report()` says it to people.

    Raises:
        DataError: there is no manifest, or it is damaged.
    """
    manifest = load_manifest(folder)
    problems = _straddling(manifest) + _tokenizer_problems(manifest) + _strangers(manifest)
    labels: Counter[str] = Counter()
    tasks = _tasks(manifest)
    with Progress("tars", len(tasks), shown=progress) as shown:
        for result in run_tasks(verify_shard, tasks, processes):
            problems += result.problems
            labels.update(result.labels)
            shown.advance()
    listed = tuple({"input": place, "reason": reason} for place, reason in problems[:KEPT_REJECTIONS])
    texts = tuple(_describe(manifest, row) for row in _spread(range(len(manifest)), samples))
    sheet = draw_sheet(manifest, Path(contact_sheet)) if contact_sheet else None
    return Inspection(manifest, listed, dict(labels.most_common()), texts, sheet)


def verify_shard(task: ShardTask) -> ShardResult:
    """Compare one tar with the manifest; the work of one process."""
    problems: list[tuple[str, str]] = []
    labels: Counter[str] = Counter()
    path, shard = task.folder / task.shard.name, task.shard
    if not path.is_file():
        return ShardResult([(shard.name, "the file is missing")], labels)
    if (size := path.stat().st_size) != shard.size:
        problems.append((shard.name, f"{size} bytes, the manifest says {shard.size}"))
    elif sha256_of(path) != shard.sha256:
        problems.append((shard.name, "its sha256 is not the manifest's: the tar was changed"))
    found = ShardResult(problems, labels)
    with path.open("rb") as file:
        for row in task.rows:
            _verify_sample(file, task, row, found)
    return found


def _verify_sample(file: Any, task: ShardTask, row: Mapping[str, Any], found: ShardResult) -> None:
    """Add what is wrong with its members, and its label."""
    for name, own in _present(task.fields, row):
        try:
            value = _member(file, row, own)
        except DataError as error:
            found.problems.append((f"{task.shard.name}: {row['key']}: {name}", str(error)))
            continue
        if own.kind == "json" and value.get("label") is not None:
            found.labels[str(value["label"])] += 1


def draw_sheet(manifest: Manifest, path: Path) -> Path | None:
    """Write pictures of every part of the data set in a grid, with their keys; None where there are none."""
    name = next((name for name, own in manifest.fields.items() if own.kind == "image"), None)
    rows = _spread(np.flatnonzero(manifest.column(f"{name}.offset") >= 0), PICTURES) if name else []
    if not rows or name is None:
        return None
    count = min(COLUMNS, len(rows))
    sheet = Image.new("RGB", (count * THUMB, -(-len(rows) // count) * (THUMB + LINE)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        x, y = place % count * THUMB, place // count * (THUMB + LINE)
        values = _row(manifest, row)
        try:
            picture = _read(manifest, values, name)
            picture.thumbnail((THUMB - 4, THUMB - 4))
            sheet.paste(picture, (x + (THUMB - picture.width) // 2, y + (THUMB - picture.height) // 2))
        except (DataError, OSError):
            pen.text((x + 4, y + THUMB // 2), "damaged", fill="red")
        pen.text((x + 4, y + THUMB), values["key"][-14:], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
    return path


def histogram(lengths: np.ndarray) -> str:
    """A line of bars: how many samples have a length, from the least to the greatest."""
    counts, _ = np.histogram(lengths, bins=BINS)
    heights = np.ceil(counts / max(counts.max(), 1) * (len(BARS) - 1)).astype(int)
    return "".join(BARS[height] for height in heights)


def _tasks(manifest: Manifest) -> list[ShardTask]:
    rows: list[list[dict[str, Any]]] = [[] for _ in manifest.shards]
    for row in manifest.samples.to_pylist():
        rows[row["shard"]].append(row)
    fields = dict(manifest.fields)
    return [ShardTask(manifest.folder, shard, fields, own) for shard, own in zip(manifest.shards, rows, strict=True)]


def _member(file: Any, row: Mapping[str, Any], own: Field) -> Any:
    offset, size = row[f"{own.name}.offset"], row[f"{own.name}.size"]
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise DataError(f"cut short: {len(data)} of {size} bytes are there")
    if zlib.crc32(data) != row[f"{own.name}.crc32"]:
        raise DataError("its bytes are not the manifest's (crc32 differs)")
    return decode(own, data)


def _present(fields: Mapping[str, Field], row: Mapping[str, Any]) -> list[tuple[str, Field]]:
    return [(name, own) for name, own in fields.items() if row[f"{name}.offset"] >= 0]


def _read(manifest: Manifest, row: Mapping[str, Any], name: str) -> Any:
    with (manifest.folder / manifest.shards[row["shard"]].name).open("rb") as file:
        return _member(file, row, manifest.fields[name])


def _row(manifest: Manifest, number: int) -> dict[str, Any]:
    return manifest.samples.slice(number, 1).to_pylist()[0]


def _spread(rows: Sequence[int] | np.ndarray, count: int) -> list[int]:
    if count < 1 or not len(rows):
        return []
    return [int(rows[i]) for i in np.unique(np.linspace(0, len(rows) - 1, count).astype(int))]


def _describe(manifest: Manifest, number: int) -> str:
    row = _row(manifest, number)
    lines = [f"sample {row['key']} ({row['split']}, group {row['group']})"]
    for name, own in _present(manifest.fields, row):
        try:
            lines.append(f"  {name}: {_shown(own, _read(manifest, row, name))}")
        except (DataError, OSError) as error:
            lines.append(f"  {name}: {error}")
    return "\n".join(lines)


def _shown(own: Field, value: Any) -> str:
    if own.kind == "image":
        return f"{value.width} x {value.height} pixels"
    if own.kind == "audio":
        return f"{len(value[0]) / value[1]:.2f} seconds at {value[1]} Hz"
    if own.kind == "video":
        return f"{len(value)} frames of {value.shape[2]} x {value.shape[1]} pixels"
    if own.kind == "array":
        return f"{value.dtype} of {' x '.join(map(str, value.shape))}"
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN_LETTERS else text[:SHOWN_LETTERS] + " ..."


def _head(manifest: Manifest) -> list[str]:
    groups = Counter(manifest.column("group"))
    top, most = groups.most_common(1)[0]
    splits = ", ".join(f"{name} {count}" for name, count in sorted(Counter(manifest.column("split")).items()))
    size = sum(shard.size for shard in manifest.shards)
    return [
        f"{manifest.folder}: {len(manifest)} samples in {len(manifest.shards)} tars, {size / 1e6:.1f} MB",
        f"splits: {splits}",
        f"groups: {len(groups)}, the largest has {most} ({top})",
    ]


def _labels(labels: Mapping[str, int]) -> list[str]:
    if not labels:
        return []
    shown = ", ".join(f"{name} {count}" for name, count in list(labels.items())[:SHOWN_LABELS])
    return [f"labels: {len(labels)}: {shown}{', ...' if len(labels) > SHOWN_LABELS else ''}"]


def _lengths(manifest: Manifest, name: str, own: Field) -> list[str]:
    lengths = manifest.lengths(name)[manifest.column(f"{name}.offset") >= 0]
    line = f"{name} ({own.kind}): in {len(lengths)} samples"
    if own.kind not in ("text", "audio", "array") or not len(lengths):
        return [line]
    unit = {"audio": "samples", "array": "rows", "text": "tokens" if "tokenizer" in own.facts else "characters"}[
        own.kind
    ]
    low, middle, high, top = np.percentile(lengths, [0, 50, 95, 100], method="inverted_cdf")
    figures = f"length in {unit}: min {low:.0f}, median {middle:.0f}, p95 {high:.0f}, max {top:.0f}"
    return [f"{line}, {figures}", f"  |{histogram(lengths)}|"]


def _reasons(manifest: Manifest) -> list[str]:
    count = manifest.statistics.get("rejected", len(manifest.rejected))
    if not count:
        return ["left out when it was built: nothing"]
    first = [f"  {entry['input']}: {entry['reason']}" for entry in manifest.rejected[:SHOWN_REASONS]]
    return [f"left out when it was built: {count}", *first, *(["  ..."] if count > SHOWN_REASONS else [])]


def _straddling(manifest: Manifest) -> list[tuple[str, str]]:
    pairs = set(zip(manifest.column("group"), manifest.column("split"), strict=True))
    counts = Counter(group for group, _ in pairs)
    return [("manifest", f"group '{group}' is in {count} splits") for group, count in counts.items() if count > 1]


def _tokenizer_problems(manifest: Manifest) -> list[tuple[str, str]]:
    problems = []
    for own in manifest.fields.values():
        if "tokenizer" in own.facts:
            file = manifest.folder / own.facts["tokenizer"] / "tokenizer.json"
            if not file.is_file() or sha256_of(file) != own.facts["sha256"]:
                problems.append((str(file), f"missing, or not the tokenizer that '{own.name}' was measured with"))
    return problems


def _strangers(manifest: Manifest) -> list[tuple[str, str]]:
    known = {shard.name for shard in manifest.shards}
    refused = {entry["input"].split(": ")[0] for entry in manifest.rejected}
    there = {path.relative_to(manifest.folder).as_posix() for path in manifest.folder.rglob("*.tar")}
    return [(name, "a tar that the manifest does not know") for name in sorted(there - known - refused)]
