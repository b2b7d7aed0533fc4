"""Fine-tuning: from a task and labelled samples to the weights of the best epoch."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mmpt.config import Component, component
from mmpt.downstream.encoder import Encoder
from mmpt.downstream.tables import check_folder
from mmpt.errors import ConfigError
from mmpt.finetune.groups import check_groups
from mmpt.finetune.loop import Loop
from mmpt.finetune.parts import Part, find_examples, parts_of
from mmpt.finetune.result import FitResult
from mmpt.finetune.saved import TASK, clear, load, load_result, save, settings_of
from mmpt.finetune.settings import FitSettings
from mmpt.finetune.strategies import Strategy
from mmpt.finetune.tasks import Task
from mmpt.parts import unknown
from mmpt.pools import Pool
from mmpt.training import engine
from mmpt.training.progress import quiet
from mmpt.training.section import check_settings
from mmpt.training.world import World, place

MARK = "fit.json"  # of a folder: which fit it holds


def fit(
    task: Task,
    train: Any,
    validation: Any,
    *,
    test: Any,
    strategy: Component[Strategy],
    out: Path | None,
    allow_shared_groups: bool,
    console: Console | None,
    settings: FitSettings,
) -> FitResult:
    """See `Task.fit`."""
    how = strategy.build()
    metric = settings.metric or next(iter(task.metrics))
    if metric not in task.metrics:
        raise ConfigError(f"metric: {unknown('a metric', list(task.metrics), metric)}")
    _check(settings, how, strategy.name)
    if how.pool and not task.pooled:
        kind = type(task).__name__
        raise ConfigError(f"strategy '{strategy.name}' brings a pool, and {kind} looks at no pool; use linear_probe")
    if how.pool:
        task.pool = component(Pool, how.pool)
    if how.fitted:
        _begin_fitted(task, strategy.name)
    examples = find_examples(task, train, validation, test)
    notes = check_groups(examples, allowed=allow_shared_groups)
    parts = parts_of(task, examples, notes, learn=not how.fitted)
    made = False
    if out is not None:
        made = not (out / MARK).exists()
        _same_fit(out, task, strategy, settings, parts)
        if (out / TASK).exists():
            return _as_it_was(task, load_result(out))
    with tempfile.TemporaryDirectory() as scratch:
        log = (out or Path(scratch)) / "log.txt"
        with quiet(log, speaks=console is not None and place()[0] == 0) as terminal:
            world = engine.start(0)
            with _unmade_if_refused(out if made and world.rank == 0 else None):
                loop = Loop(
                    task, how, parts, settings, metric, world, out, terminal if _on_stdout(console) else console
                )
            loop.go()
            result = loop.result(strategy.name, tuple(notes))
            if out is not None:
                _publish(result, out, world)
    return result


def _begin_fitted(task: Task, strategy: str) -> None:
    """The task has the weights of a fit before, or takes them from the encoder's folder; raises ConfigError."""
    if task.model is not None:
        return
    folder = task.encoder.run
    if folder is None or task.encoder.step is None or not (folder / TASK).exists():
        raise ConfigError(
            f"strategy '{strategy}' goes on with a fitted task, and {folder or 'this encoder'} holds none; fit with "
            "another one first, or give the folder of a fitted task as encoder"
        )
    own = load(folder)
    if (kind := type(own)) is not type(task) or settings_of(own) != settings_of(task):
        told = f"{kind.__name__} of {own.title}"
        raise ConfigError(f"strategy '{strategy}' goes on with the task of {folder}, {told}; give it the same settings")
    task.model, task.facts = own.fitted_model().to(task.encoder.device), own.facts


def _as_it_was(task: Task, done: FitResult) -> FitResult:
    """The result of a finished fit; the task predicts with it, as it did then."""
    task.facts, task.model = done.task.facts, done.task.model
    return replace(done, task=task)


@contextmanager
def _unmade_if_refused(out: Path | None) -> Iterator[None]:
    """No folder is left of a fit that can't begin."""
    try:
        yield
    except ConfigError:
        if out is not None:
            (out / MARK).unlink()
            (out / "log.txt").unlink()
            if not any(out.iterdir()):
                out.rmdir()
        raise


def _publish(result: FitResult, out: Path, world: World) -> None:
    if world.rank == 0:
        save(result.task, out, result=result)
        clear(out / "progress", out / "best")
    torch.distributed.barrier()


def _on_stdout(console: Console | None) -> bool:
    """Whether it writes where libraries write, too; a notebook's doesn't."""
    try:
        return console is not None and console.file.fileno() in (1, 2)
    except (OSError, ValueError, AttributeError):
        return False


def _check(settings: FitSettings, strategy: Strategy, name: str) -> None:
    check_settings(settings.deepspeed)
    stage = settings.deepspeed.get("zero_optimization", {}).get("stage", 0)
    if stage == 3:
        raise ConfigError("deepspeed.zero_optimization.stage: fine-tuning works with 0, 1 and 2; use one of them")
    _, ranks = place()
    if ranks > 1 and not strategy.ranks:
        raise ConfigError(f"strategy '{name}' works on one rank, and there are {ranks}; use another, or one rank")


def _weights_of(encoder: Encoder) -> str:
    """Which of those that a folder may stand for."""
    if encoder.origin is not None:
        return ", ".join(encoder.origin.sha256.values())
    return "untrained" if encoder.step is None else f"step {encoder.step}"


def _same_fit(
    out: Path, task: Task, strategy: Component[Strategy], settings: FitSettings, parts: dict[str, Part]
) -> None:
    """The folder's fit is this one; raises ConfigError with the first difference."""
    check_folder(out)
    now = {
        "task": {"type": type(task).__name__, **settings_of(task)},
        "encoder": str(task.encoder.run),
        "weights": _weights_of(task.encoder),
        "strategy": {"type": strategy.name, **strategy.settings},
        "settings": asdict(settings),
        "samples": {purpose: [part.examples.where, len(part.known)] for purpose, part in parts.items()},
    }
    text, file = json.dumps(now, indent=1, sort_keys=True, default=str), out / MARK
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, value in json.loads(text).items():
            if before.get(name, value) != value:  # of an earlier version: it may not say all
                raise ConfigError(f"{out}: holds a fit with {name} {before.get(name)}, not {value}; use another folder")
        return
    if out.exists() and any(path.name != "log.txt" for path in out.iterdir()):
        raise ConfigError(f"{out}: is not empty and holds no fit; use another folder")
    if place()[0] == 0:
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
