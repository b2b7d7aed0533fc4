"""Epochs of fine-tuning: train, score, keep the best, save, and tell what came of it."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from mmpt.build import count_parameters, load_weights
from mmpt.downstream.result import Interval
from mmpt.errors import Interrupted
from mmpt.finetune.bar import epoch_bar
from mmpt.finetune.evaluate import Judged, judged
from mmpt.finetune.metrics import intervals, values
from mmpt.finetune.model import plain_model
from mmpt.finetune.parts import Part
from mmpt.finetune.result import FitResult
from mmpt.finetune.rows import Rows, order_of, share_of
from mmpt.finetune.settings import FitSettings
from mmpt.finetune.standardise import standardise
from mmpt.finetune.strategies import Strategy
from mmpt.finetune.tasks import Task
from mmpt.settings import OptimizerSettings, TrainingSettings
from mmpt.training import checkpoint
from mmpt.training.engine import Engine
from mmpt.training.guards import Interruption, NonFinite
from mmpt.training.record import Record
from mmpt.training.schedules import learning_rate
from mmpt.training.world import World

MAX_NONFINITE = 10
SHOWN = 4  # metrics a line, beside the one that epochs are compared by


class Begun(NamedTuple):
    """What is known of an epoch in its middle."""

    batches: int = 0  # that are done
    sums: Mapping[str, tuple[float, float]] = MappingProxyType({})  # of what the objective tells: sum and count
    seconds: float = 0.0


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
        saved, train = self._newest(), parts["train"]
        if strategy.fitted:
            self.model.load_state_dict(task.fitted_model().state_dict())
        elif saved is None:
            standardise(task, self.model, train, batch_size=2 * settings.batch_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed + 1)
            strategy.prepare(self.model, task.encoder)
        self.trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.usable = train.usable
        self.per_epoch = math.ceil(len(self.usable) / settings.batch_size)
        self.training = self._training()
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best = 0, self._weights()
        if saved:
            load_weights(self.model, saved.weights)
            self.history, self.best_epoch = saved.state["history"], saved.state["best_epoch"]
            if self.best_epoch:
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
        self.begun = Begun(**saved.state.get("begun", {})) if saved else Begun()
        self.stopping = False
        self.notes: list[str] = []  # on the samples that were judged
        if saved:
            self.engine.set_moments(saved.moments, self.updates)
        self.nonfinite = NonFinite(MAX_NONFINITE)
        self.record = Record(out, len(self.history)) if out is not None and world.rank == 0 else None

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
        """All epochs that are left, or until none gets better.

        Raises Interrupted after a signal, between batches, where there is a folder to go on in.
        """
        guard = Interruption()
        with guard if self.out is not None else nullcontext(guard) as interruption:
            while self._goes_on():
                self._one_epoch(len(self.history) + 1, interruption)
                if self.stopping and self._goes_on():
                    self._stop(f"after epoch {len(self.history)} of {self.settings.epochs}")
        if self.record is not None:
            self.record.close()

    def _goes_on(self) -> bool:
        patience = self.settings.patience or self.settings.epochs
        return len(self.history) < self.settings.epochs and len(self.history) - self.best_epoch < patience

    def _one_epoch(self, epoch: int, interruption: Interruption) -> None:
        """Train, judge and save."""
        before, began = self.begun, time.perf_counter()
        console = self.console if self.world.rank == 0 else None
        with epoch_bar(console, f"epoch {epoch}/{self.settings.epochs}", self.per_epoch, before.batches) as show:
            losses = self._learn(epoch, interruption, show)
            found = self._judged("validation")
        own = values(self.task.metrics, self.task.evidence(found.true, found.scores))
        seconds = before.seconds + time.perf_counter() - began
        self.history.append({"epoch": float(epoch), **losses, **own, "seconds": seconds})
        self._judge()
        self._say()
        self._save()

    def _stop(self, where: str) -> NoReturn:
        if self.record is not None:
            self.record.close()
        raise Interrupted(f"stopped by a signal {where}; saved: the same command goes on")

    def _learn(self, epoch: int, interruption: Interruption, show: Callable[[int], None]) -> dict[str, float]:
        """Mean training loss, and means of whatever else the objective tells; goes on in the middle of an epoch."""
        before, began = self.begun, time.perf_counter()
        order = order_of(self.usable, self.settings.seed, epoch - 1)
        part = self.parts["train"]
        rows = Rows(self.task, part.examples, part.known, seed=self.settings.seed, augment=self.settings.augment)
        self.model.train()
        if not any(p.requires_grad for p in self.model.backbone.parameters()):
            self.model.backbone.eval()
        sums = dict(before.sums)
        for number in range(before.batches, self.per_epoch):
            size, step = self.settings.batch_size, (epoch - 1) * self.per_epoch + number
            own, padding = share_of(order[number * size : (number + 1) * size], self.world.rank, self.world.ranks)
            rate = learning_rate(self.training.optimizer, step, self.training.steps)
            batch = rows.batch(own, epoch=epoch - 1, padding=padding)
            outcome = self.engine.step([batch], step / self.training.steps, rate, [float(interruption.asked)])
            self.nonfinite.count(step, outcome.finite)
            self.updates += outcome.finite
            for name, (more, counted) in outcome.metrics.items():
                total, count = sums.get(name, (0.0, 0.0))
                sums[name] = total + more, count + counted
            show(number + 1)
            self.stopping = outcome.extra[0] > 0  # on any rank
            if self.stopping and number + 1 < self.per_epoch:
                self._save(Begun(number + 1, sums, before.seconds + time.perf_counter() - began))
                self._stop(f"in epoch {epoch} of {self.settings.epochs}, after batch {number + 1} of {self.per_epoch}")
        self.begun = Begun()
        means = {name: total / max(count, 1.0) for name, (total, count) in sums.items()}
        return {"loss": means.pop("task/loss"), **means}

    def _judged(self, purpose: str) -> Judged:
        """What is right and what was said of the samples that have a label."""
        part, size = self.parts[purpose], 2 * self.settings.batch_size
        return judged(self.task, self.model, part.examples, part.known, batch_size=size)

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
            names = dict.fromkeys(("loss", self.metric, *list(self.task.metrics)[:SHOWN]))
            figures = "  ".join(f"{name} {last[name]:.3f}" for name in names)
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

    def _save(self, begun: Begun = Begun()) -> None:  # noqa: B008  frozen
        """Behind an epoch, or in the middle of the next."""
        if self.out is None:
            return
        weights, moments = self.engine.whole_state()
        epoch = len(self.history)
        if self.record is not None and not begun.batches:
            self.record.note(epoch - 1, epoch, self.history[-1])
        if self.world.rank == 0:
            if self.best_epoch == epoch and not begun.batches:
                checkpoint.commit(self._folder("best"), checkpoint.Saved(self.best, {}, {"step": epoch}))
            state = {
                "step": epoch * self.per_epoch + begun.batches,
                "updates": self.updates,
                "history": self.history,
                "best_epoch": self.best_epoch,
                "begun": {**begun._asdict(), "sums": dict(begun.sums)},
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
        metrics, trivial, confusion = self._told("validation")
        test, trivial_test = {}, {}
        if "test" in self.parts:
            test, trivial_test, confusion = self._told("test")
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
            notes=(*notes, *self.notes),
            confusion=None if confusion is None else confusion.tolist(),
        )

    def _told(self, purpose: str) -> tuple[dict[str, Interval], dict[str, float], np.ndarray | None]:
        """The model's scores, those of one who never looks at a sample, and what was taken for what."""
        part, task = self.parts[purpose], self.task
        found = self._judged(purpose)
        if found.cut:
            self.notes.append(f"{purpose}: {found.cut}")
        evidence = task.evidence(found.true, found.scores)
        groups = np.array(part.examples.groups)[part.usable]
        own = intervals(task.metrics, evidence, groups, self.settings.seed)
        return own, task.trivial(found.true), task.confusion(evidence)
