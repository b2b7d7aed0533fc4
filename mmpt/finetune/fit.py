"""Fine-tuning: from a task and labelled samples to the weights of the best epoch."""

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from mmpt.build import count_parameters, load_weights
from mmpt.config import Component, component
from mmpt.downstream.result import Interval
from mmpt.errors import ConfigError, DataError
from mmpt.finetune.evaluate import intervals, outputs_of, values
from mmpt.finetune.examples import Examples, ShardExamples, examples_of
from mmpt.finetune.model import plain_model
from mmpt.finetune.pools import Pool
from mmpt.finetune.result import FitResult
from mmpt.finetune.rows import Rows, known_labels, order_of, share_of
from mmpt.finetune.saved import RESULT, clear, load_result, settings_of
from mmpt.finetune.settings import FitSettings
from mmpt.finetune.strategies import Strategy
from mmpt.finetune.tasks import Task
from mmpt.settings import OptimizerSettings, TrainingSettings
from mmpt.training import checkpoint, engine
from mmpt.training.engine import Engine, World
from mmpt.training.guards import NonFinite
from mmpt.training.progress import quiet
from mmpt.training.schedules import learning_rate

MAX_NONFINITE = 10


class Part(NamedTuple):
    """Samples of one purpose and their labels."""

    examples: Examples
    known: list[np.ndarray | None]

    @property
    def usable(self) -> np.ndarray:
        """Numbers of the samples that have a label."""
        return np.array([number for number, label in enumerate(self.known) if label is not None], dtype=np.int64)


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
    if how.pool:
        task.pool = component(Pool, how.pool)
    examples = _examples(task, train, validation, test)
    notes = _check_groups(examples, allowed=allow_shared_groups)
    parts = _parts(task, examples, notes)
    metric = settings.metric or next(iter(task.metrics))
    if metric not in task.metrics:
        raise ConfigError(f"metric: expected one of {', '.join(task.metrics)}, got '{metric}'")
    _check(settings, how, strategy.name)
    if out is not None:
        _same_fit(out, task, strategy, settings, parts)
        if (out / RESULT).exists():
            return load_result(out)
    with tempfile.TemporaryDirectory() as scratch:
        log = (out or Path(scratch)) / "log.txt"
        with quiet(log, speaks=console is not None and engine.place()[0] == 0) as terminal:
            world = engine.start(0)
            loop = Loop(task, how, parts, settings, metric, world, out, terminal if _on_stdout(console) else console)
            loop.go()
            result = loop.result(strategy.name, tuple(notes))
            if out is not None:
                _publish(result, out, world)
    return result


def _publish(result: FitResult, out: Path, world: World) -> None:
    if world.rank == 0:
        result.save(out)
        clear(out / "progress", out / "best")
    torch.distributed.barrier()


def _parts(task: Task, examples: dict[str, Examples], notes: list[str]) -> dict[str, Part]:
    """Labels as numbers; the task learns what it must know of the training ones."""
    task.facts = task.learn([label for label in examples["train"].labels if label is not None])
    parts = {purpose: Part(own, known_labels(task, own)) for purpose, own in examples.items()}
    for purpose, part in parts.items():
        if not len(part.usable):
            raise DataError(f"{part.examples.where}: no sample has a label '{task.label}'")
        if len(part.usable) < len(part.known):
            notes.append(f"{len(part.known) - len(part.usable)} {purpose} samples have no label and were left out")
    return parts


def _on_stdout(console: Console | None) -> bool:
    """Whether it writes where libraries write, too; a notebook's doesn't."""
    try:
        return console is not None and console.file.fileno() in (1, 2)
    except (OSError, ValueError, AttributeError):
        return False


def _examples(task: Task, train: Any, validation: Any, test: Any) -> dict[str, Examples]:
    found = {"train": examples_of(train, task.inputs, label=task.label, split="train")}
    if validation is None:
        own = found["train"]
        if not isinstance(own, ShardExamples):
            raise ConfigError("validation: needed to choose the best epoch by; give samples that are not in train")
        validation = own.manifest.folder
    found["validation"] = examples_of(validation, task.inputs, label=task.label, split="validation")
    if test is not None:
        found["test"] = examples_of(test, task.inputs, label=task.label, split="test")
    return found


def _check_groups(examples: dict[str, Examples], *, allowed: bool) -> list[str]:
    """Samples of one patient in training and validation make every score too good."""
    sides: dict[str, set[tuple[str, str]]] = {}
    for purpose, own in examples.items():
        # groups of different data sets have nothing to do with one another
        where = str(own.manifest.folder) if isinstance(own, ShardExamples) else ""
        given = [g for n, g in enumerate(own.groups) if where or g != f"sample {n}"]
        sides[purpose] = {(where, group) for group in given}
    for purpose in list(sides)[1:]:
        shared = sorted(sides["train"] & sides[purpose])
        if shared and not allowed:
            raise DataError(
                f"{len(shared)} groups are in train and in {purpose} ('{shared[0][1]}' for one), so that scores would "
                "be of what was seen in training; split by group, or say allow_shared_groups"
            )
        if shared:
            return [f"{len(shared)} groups are in train and in {purpose}: scores are too good"]
    return []


def _check(settings: FitSettings, strategy: Strategy, name: str) -> None:
    engine.check_settings(settings.deepspeed)
    stage = settings.deepspeed.get("zero_optimization", {}).get("stage", 0)
    if stage == 3:
        raise ConfigError("deepspeed.zero_optimization.stage: fine-tuning works with 0, 1 and 2; use one of them")
    _, ranks = engine.place()
    if ranks > 1 and not strategy.ranks:
        raise ConfigError(f"strategy '{name}' works on one rank, and there are {ranks}; use another, or one rank")


def _same_fit(
    out: Path, task: Task, strategy: Component[Strategy], settings: FitSettings, parts: dict[str, Part]
) -> None:
    """The folder's fit is this one; raises ConfigError with the first difference."""
    now = {
        "task": {"type": type(task).__name__, **settings_of(task)},
        "encoder": str(task.encoder.run),
        "strategy": {"type": strategy.name, **strategy.settings},
        "settings": asdict(settings),
        "samples": {purpose: [part.examples.where, len(part.known)] for purpose, part in parts.items()},
    }
    text, file = json.dumps(now, indent=1, sort_keys=True, default=str), out / "fit.json"
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, value in json.loads(text).items():
            if before.get(name) != value:
                raise ConfigError(f"{out}: holds a fit with {name} {before.get(name)}, not {value}; use another folder")
        return
    if out.exists() and any(path.name != "log.txt" for path in out.iterdir()):
        raise ConfigError(f"{out}: is not empty and holds no fit; use another folder")
    if engine.place()[0] == 0:
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")


class Loop:
    """One fit between epochs."""

    def __init__(
        self,
        task: Task,
        strategy: Strategy,
        parts: dict[str, Part],
        settings: FitSettings,
        metric: str,
        world: World,
        out: Path | None,
        console: Console | None,
    ) -> None:
        self.task, self.strategy, self.parts, self.settings = task, strategy, parts, settings
        self.metric, self.world, self.out, self.console = metric, world, out, console
        self.model = plain_model(task, settings.seed)
        self.parameters = count_parameters([self.model])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed + 1)
            strategy.prepare(self.model, task.encoder)
        self.trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.usable = parts["train"].usable
        self.per_epoch = math.ceil(len(self.usable) / settings.batch_size)
        self.training = self._training()
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best = 0, self._weights()
        saved = self._newest()
        if saved:
            load_weights(self.model, saved.weights)
            self.history, self.best_epoch = saved.state["history"], saved.state["best_epoch"]
            self.best = checkpoint.load(self._folder("best") / f"step-{self.best_epoch:09d}", moments=False).weights
        size = -(-settings.batch_size // world.ranks)
        scales = strategy.scales(self.model)
        self.engine = Engine(
            self.model,
            self.training,
            settings.deepspeed,
            world,
            batch_size=size * world.ranks,
            accumulation=1,
            scales=scales,
        )
        self.updates = int(saved.state["updates"]) if saved else 0
        if saved:
            self.engine.set_moments(saved.moments, self.updates)
        self.nonfinite = NonFinite(MAX_NONFINITE)

    def _training(self) -> TrainingSettings:
        settings, steps = self.settings, self.per_epoch * self.settings.epochs
        rate = settings.learning_rate or self.strategy.learning_rate
        optimizer = OptimizerSettings(
            learning_rate=rate,
            betas=(0.9, 0.999),
            weight_decay=settings.weight_decay,
            warmup_steps=int(settings.warmup_share * steps),
        )
        return TrainingSettings(steps=steps, optimizer=optimizer, seed=settings.seed, precision=settings.precision)

    def go(self) -> None:
        """All epochs that are left, or until none gets better."""
        patience = self.settings.patience or self.settings.epochs
        while len(self.history) < self.settings.epochs and len(self.history) - self.best_epoch < patience:
            began = time.perf_counter()
            losses = self._epoch(len(self.history))
            scores = self._scores("validation")
            own = values(self.task.metrics, *scores)
            seconds = time.perf_counter() - began
            self.history.append({"epoch": float(len(self.history) + 1), **losses, **own, "seconds": seconds})
            self._judge()
            self._say()
            self._save()

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Mean training loss, and means of whatever else the objective tells."""
        order = order_of(self.usable, self.settings.seed, epoch)
        part = self.parts["train"]
        rows = Rows(self.task, part.examples, part.known, seed=self.settings.seed, augment=self.settings.augment)
        self.model.train()
        if not any(p.requires_grad for p in self.model.backbone.parameters()):
            self.model.backbone.eval()
        sums: dict[str, tuple[float, float]] = {}
        for number in range(self.per_epoch):
            size, step = self.settings.batch_size, epoch * self.per_epoch + number
            own, padding = share_of(order[number * size : (number + 1) * size], self.world.rank, self.world.ranks)
            rate = learning_rate(self.training.optimizer, step, self.training.steps)
            batch = rows.batch(own, epoch=epoch, padding=padding)
            outcome = self.engine.step([batch], step / self.training.steps, rate, [])
            self.nonfinite.count(step, outcome.finite)
            self.updates += outcome.finite
            for name, (more, counted) in outcome.metrics.items():
                total, count = sums.get(name, (0.0, 0.0))
                sums[name] = total + more, count + counted
        means = {name: total / max(count, 1.0) for name, (total, count) in sums.items()}
        return {"loss": means.pop("task/loss"), **means}

    def _scores(self, purpose: str) -> tuple[np.ndarray, np.ndarray]:
        """True labels and scores of the samples that have a label."""
        part = self.parts[purpose]
        outputs = outputs_of(self.task, self.model, part.examples, batch_size=2 * self.settings.batch_size)
        true = np.stack([label for label in part.known if label is not None])
        return true, self.task.scores(outputs)[part.usable]

    def _judge(self) -> None:
        """Whether the newest epoch is the best one."""
        better: Callable[[float, float], bool] = (
            float.__gt__ if self.task.metrics[self.metric].higher_is_better else float.__lt__
        )
        mine = self.history[-1][self.metric]
        best = self.history[self.best_epoch - 1][self.metric] if self.best_epoch else math.nan
        if (not math.isnan(mine) and (math.isnan(best) or better(mine, best))) or not self.best_epoch:
            self.best_epoch, self.best = len(self.history), self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()}

    def _say(self) -> None:
        if self.console is not None and self.world.rank == 0:
            last = self.history[-1]
            figures = "  ".join(f"{name} {last[name]:.3f}" for name in ("loss", *self.task.metrics))
            best = "  best so far" if self.best_epoch == len(self.history) else ""
            self.console.print(
                f"epoch {len(self.history)}/{self.settings.epochs}  {figures}  {last['seconds']:.1f} s{best}",
                highlight=False,
            )

    # ---- going on after a stop

    def _folder(self, name: str) -> Path:
        assert self.out is not None
        return self.out / name

    def _newest(self) -> checkpoint.Saved | None:
        if self.out is None:
            return None
        found = checkpoint.latest(self._folder("progress"))
        return checkpoint.load(found) if found else None

    def _save(self) -> None:
        if self.out is None:
            return
        weights, moments = self.engine.whole_state()
        epoch = len(self.history)
        if self.world.rank == 0:
            if self.best_epoch == epoch:
                checkpoint.commit(self._folder("best"), checkpoint.Saved(self.best, {}, {"step": epoch}))
            state = {
                "step": epoch,
                "updates": self.updates,
                "history": self.history,
                "best_epoch": self.best_epoch,
            }
            checkpoint.commit(self._folder("progress"), checkpoint.Saved(weights, moments, state))
            checkpoint.prune(self._folder("progress"), keep_last=1, keep_every=0)
            checkpoint.prune(self._folder("best"), keep_last=1, keep_every=0)
        torch.distributed.barrier()

    # ---- the end

    def result(self, strategy: str, notes: tuple[str, ...]) -> FitResult:
        """Of the best epoch; the task gets its weights."""
        self.model.load_state_dict(self.best)
        self.strategy.finish(self.model)
        plain = plain_model(self.task)
        plain.load_state_dict(self.model.state_dict())
        self.model, self.task.model = plain, plain.eval()
        metrics, trivial = self._told("validation")
        test, trivial_test = self._told("test") if "test" in self.parts else ({}, {})
        return FitResult(
            task=self.task,
            metrics=metrics,
            trivial=trivial,
            test=test,
            trivial_test=trivial_test,
            metric=self.metric,
            best_epoch=self.best_epoch,
            history=tuple(self.history),
            samples={purpose: len(part.usable) for purpose, part in self.parts.items()},
            trained=self.trained,
            parameters=self.parameters,
            strategy=strategy,
            notes=notes,
        )

    def _told(self, purpose: str) -> tuple[dict[str, Interval], dict[str, float]]:
        """The model's scores, and those of one who never looks at a sample."""
        part, seed = self.parts[purpose], self.settings.seed
        true, scores = self._scores(purpose)
        groups = np.array(part.examples.groups)[part.usable]
        learned = np.stack([label for label in self.parts["train"].known if label is not None])
        trivial = np.repeat(self.task.trivial(learned), len(true), axis=0)
        return intervals(self.task.metrics, true, scores, groups, seed), values(self.task.metrics, true, trivial)
