"""`mmpt compress`: a run folder of a smaller model, and a table of what that cost."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmpt.build import save_facts
from mmpt.compress import measure
from mmpt.compress.methods import MARK, Method, Row, Smaller, Work, source_of
from mmpt.config import Component, dump_yaml, load_settings, to_plain
from mmpt.data.manifest import load_manifest
from mmpt.downstream.encoder import Encoder, find_checkpoint, load
from mmpt.downstream.fields import check_fields
from mmpt.downstream.tables import check_folder
from mmpt.errors import ConfigError, DataError
from mmpt.finetune.saved import TASK
from mmpt.recipes import find_recipe
from mmpt.training import checkpoint
from mmpt.training.world import place

RESULT = "compression.json"
TIMED = 32  # samples of a batch


@dataclass(frozen=True, kw_only=True)
class CompressRecipe:
    """A compression, whole.

    Args:
        run: what is made smaller: a run folder, or for students a fitted task.
        method: how.
        data: a data set that the method may look at, its `split`; quality is told by its labels.
        streams: by default all of the run's that the data set has.
        step: of the checkpoint; the newest by default.
        label: key of the labels that linear probes before and after are compared by; None compares none.
        score: by which the probes are compared. max_samples: of each split that they use.
        seed: of everything that is drawn.
    """

    run: Path
    method: Component[Method]
    data: Path
    split: str = "train"
    streams: tuple[str, ...] | None = None
    step: int | None = None
    label: str | None = None
    score: Literal["accuracy", "balanced", "macro_f1"] = "accuracy"
    max_samples: int | None = None
    seed: int = 0


class Compressed(NamedTuple):
    """What it came to."""

    folder: Path
    told: dict[str, Any]
    rows: tuple[Row, ...]
    lines: tuple[str, ...]

    def table(self) -> Table:
        """For a terminal."""
        scored = any(row.trivial for row in self.rows)
        table = Table("", "before", "after", *["trivial"] * scored, title=Text(str(self.folder)))
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row[: 3 + scored]))
        table.caption, table.caption_justify = Text("\n".join(self.lines)), "left"
        return table


def compress(recipe: str | Path, *overrides: str, out: str | Path, console: Console | None = None) -> Compressed:
    """Write a run folder that `mmpt.load`, `probe`, `export` and the rest open like any other.

    Raises:
        ConfigError: for what the run can't be made into, or a folder that is taken. DataError: for data that don't fit.
        CheckpointError: where the run has no whole checkpoint.
    """
    settings = load_settings(find_recipe(recipe, "compress"), list(overrides), CompressRecipe)
    out = Path(out)
    if place()[1] > 1:
        raise ConfigError(f"mmpt compress works on one rank, and there are {place()[1]}; start it by itself")
    _same(out, settings)
    method = settings.method.build()
    if method.of_task and not (settings.run / TASK).exists():
        raise ConfigError(f"run: {settings.run} holds no fitted task to learn from; name a folder of 'mmpt finetune'")
    work = _work(settings, out, console)
    known = None
    streams = tuple(work.source.modalities)
    if settings.label is not None:
        known = measure.labelled_of(settings.data, settings.label, streams, settings.max_samples, settings.seed)
    smaller = method.smaller(work)
    work.begin()
    _write(out, work.encoder, smaller)
    after, quality = load(out), None
    if known is not None and settings.label is not None:
        both = {"before": work.encoder, "after": after}
        quality = measure.quality(both, *known, settings.label, streams, score=settings.score, seed=settings.seed)
    result = _told(work, after, smaller, quality)
    staged = out / f".{RESULT}.staged"
    staged.write_text(json.dumps(result.told, indent=1) + "\n", encoding="utf-8")
    staged.replace(out / RESULT)
    return result


def _work(settings: CompressRecipe, out: Path, console: Console | None) -> Work:
    """Run and data, checked."""
    encoder, manifest = load(settings.run, step=settings.step), load_manifest(settings.data)
    streams = settings.streams or tuple(name for name in encoder.modalities if name in manifest.fields)
    if not streams:
        there, ours = ", ".join(manifest.fields), ", ".join(encoder.modalities)
        raise DataError(f"{manifest.folder}: has the fields {there}, and none of the run's streams {ours}")
    check_fields(settings.run, encoder.modalities, manifest, streams)
    return Work(
        settings.run,
        encoder,
        checkpoint.load(find_checkpoint(settings.run, encoder.step), moments=False).weights,
        manifest,
        source_of(settings.data, streams, encoder, settings.split, settings.seed),
        settings.split,
        out,
        dump_yaml(settings),
        settings.seed,
        console,
    )


def _same(out: Path, settings: CompressRecipe) -> None:
    """The folder is new, or one that this very recipe began; raises ConfigError otherwise."""
    check_folder(out)
    text, file = dump_yaml(settings), out / MARK
    if (out / RESULT).exists():
        raise ConfigError(f"{out}: holds a finished compression; choose another --out")
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty, and not of this recipe; choose another --out")
    if not (settings.run / "recipe.yaml").exists():
        raise ConfigError(f"run: {settings.run} is no run folder; name one of 'mmpt pretrain' or 'mmpt finetune'")


def _write(out: Path, before: Encoder, smaller: Smaller) -> None:
    """The run folder; `recipe.yaml` comes last, and a folder that has it has everything else."""
    if smaller.save is not None:
        smaller.save(out)
        return
    save_facts(out, {name: modality.facts for name, modality in before.modalities.items()})
    weights = {name: value.cpu().contiguous() for name, value in smaller.weights.items()}
    checkpoint.commit(out / "checkpoints", checkpoint.Saved(weights, {}, {"step": before.step or 0}))
    staged = out / ".recipe.yaml.staged"
    staged.write_text(dump_yaml(smaller.recipe), encoding="utf-8")
    staged.replace(out / "recipe.yaml")


def _told(work: Work, after: Encoder, smaller: Smaller, quality: measure.Quality | None) -> Compressed:
    (batch,) = work.batches(1, min(TIMED, work.source.plan.num_bins))
    slow, fast = measure.speed([work.encoder, after], batch)
    sizes = [measure.parameters(encoder) for encoder in (work.encoder, after)]
    rows = [
        Row("parameters of the backbone", f"{sizes[0]:,}", f"{sizes[1]:,} ({sizes[1] / sizes[0]:.0%})"),
        Row("speed, a batch after a batch", "1", f"{slow / fast:.2f} times"),
    ]
    if quality is not None:
        own = [str(score) for score in quality.scores.values()]
        what = f"linear probe of {quality.label}, {quality.score}"
        rows.append(Row(what, own[0], own[1], f"{quality.trivial:.3f}"))
    lines = list(smaller.lines)
    if quality is not None:
        gain = quality.gain
        lines.append(f"probe, after less before: {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
    told = {
        "run": str(work.run),
        "step": work.encoder.step,
        "parameters": sizes,
        "speedup": slow / fast,
        "quality": measure.plain(quality),
        "method": to_plain(smaller.told),
    }
    return Compressed(work.out, told, (*rows, *smaller.rows), tuple(lines))
