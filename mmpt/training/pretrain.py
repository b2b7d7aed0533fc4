"""Pretraining: from a recipe to a run folder, from whichever step the folder has reached."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mmpt.build import load_weights
from mmpt.data.batches import MicroBatch, MicroBatches, steps_from
from mmpt.data.source import UID_SHIFT, Source
from mmpt.errors import CheckpointError, Interrupted
from mmpt.model import MaskedModel
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.collapse import CollapseWatch
from mmpt.training.engine import Engine
from mmpt.training.expert_loads import LoadWatch, plain
from mmpt.training.frozen_runs import measure
from mmpt.training.guards import BadSamples, Interruption, NonFinite
from mmpt.training.ledger import Lines
from mmpt.training.outcome import Outcome
from mmpt.training.progress import Display, Meter
from mmpt.training.record import Record
from mmpt.training.schedules import learning_rate
from mmpt.training.world import World, agree

if TYPE_CHECKING:
    from mmpt.evaluation.online_probe import OnlineProbes

FRESH = {"step": 0, "updates": 0, "bad_samples": {}, "nonfinite": {}, "watches": {"collapse": {}, "experts": {}}}


def train(
    recipe: Recipe,
    run: Path,
    world: World,
    console: Console,
    sources: list[Source],
    model: MaskedModel,
    batches: MicroBatches,
    probes: "OnlineProbes | None" = None,
) -> Path:
    """Train to the last step, going on from the newest whole checkpoint; returns that of the last step.

    Raises DataError when too many samples can't be read, CheckpointError when a save fails, NonFiniteError after too
    many bad updates, Interrupted after a signal.
    """
    with Interruption() as interruption:
        return Loop(recipe, run, world, console, sources, model, batches, probes).go(interruption)


def _agreed(world: World, action: Callable[[], object]) -> None:
    """Let rank 0 act; what it raises, all ranks raise."""
    problem: Exception | None = None
    if world.rank == 0:
        try:
            action()
        except Exception as error:  # every rank must hear of it before this one raises it
            problem = error
    message = agree(world, str(problem) if problem else "")
    if problem:
        raise problem
    if message:
        raise CheckpointError(message)


class Loop:
    """One run's state between steps."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        world: World,
        console: Console,
        sources: list[Source],
        model: MaskedModel,
        batches: MicroBatches,
        probes: "OnlineProbes | None" = None,
    ) -> None:
        self.probes = probes
        self.recipe, self.run, self.world, self.sources, self.batches = recipe, run, world, sources, batches
        self.settings = recipe.training
        self.display = Display(console, recipe.training.steps)
        newest = self._newest()
        saved = checkpoint.load(newest) if newest else None
        state = {**FRESH, **(saved.state if saved else {})}  # what an older checkpoint lacks begins anew
        if saved:
            load_weights(model, saved.weights)
        else:
            measure(model, batches)
        self.engine = Engine(
            model,
            self.settings,
            recipe.deepspeed,
            world,
            batch_size=recipe.data.batch_size,
            accumulation=batches.share.accumulation,
        )
        if saved:
            self.engine.set_moments(saved.moments, state["updates"])
        self.step, self.updates = int(state["step"]), int(state["updates"])
        self.bad = BadSamples(recipe.data, **state["bad_samples"])
        self.nonfinite = NonFinite(self.settings.max_nonfinite, **state["nonfinite"])
        self.collapse = CollapseWatch(self.settings.collapse, **state["watches"]["collapse"])
        self.loads = LoadWatch(**state["watches"]["experts"])
        self.last_skip = ""
        self.ledger = Lines(run / _ledger_name(world.rank), self.step)
        if world.rank == 0:
            wind_back_others(run, world.ranks, self.step)
        self.record = Record(run, self.step) if world.rank == 0 else None
        self.meter = Meter()

    def _newest(self) -> Path | None:
        """The newest whole checkpoint, as rank 0 sees it; raises CheckpointError where none of them is whole."""
        folder = self.run / "checkpoints"
        found: list[Path] = []

        def look() -> None:
            steps = checkpoint.steps_in(folder)
            newest = checkpoint.latest(folder)
            if steps and newest is None:
                trouble = checkpoint.problems(folder / f"step-{steps[-1]:09d}")
                raise CheckpointError(
                    f"{folder}: none of its {len(steps)} checkpoints is whole ({trouble}); use another --out"
                )
            if newest and newest.name != f"step-{steps[-1]:09d}":
                self.display.say(f"{folder}: step {steps[-1]} is damaged and passed over")
            found.extend([newest] if newest else [])

        _agreed(self.world, look)
        name = agree(self.world, found[0].name if found else "")
        return folder / name if name else None

    def go(self, interruption: Interruption) -> Path:
        """All steps that are left."""
        ranks = f"{self.world.ranks} rank{'s' * (self.world.ranks > 1)} on {self.world.device.type}"
        verb = "going on from" if self.step else "beginning at"
        self.display.say(f"{self.run}: {verb} step {self.step} of {self.settings.steps}, {ranks}")
        pin = self.world.device.type == "cuda"
        batches = steps_from(self.batches, self.step, workers=self.recipe.data.workers, pin_memory=pin)
        with self.display.start(self.step):
            saved = self._train(batches, interruption)
        if self.record:
            self.record.close()
        return saved

    def _train(self, batches: Iterator[list[MicroBatch]], interruption: Interruption) -> Path:
        saved = self.run / "checkpoints"
        if self.step == 0:
            self._probe()
        for _ in range(self.step, self.settings.steps):
            began = time.perf_counter()
            micro = next(batches)
            waited = time.perf_counter() - began
            stopping = self._one_step(micro, waited, interruption)
            self._probe()  # before a save: a run that goes on from it has the figures
            done = self.step == self.settings.steps
            if stopping or done or self.step % self.settings.save_every == 0:
                saved = self._save()
            if stopping and not done:
                raise Interrupted(f"stopped by a signal after step {self.step}; saved: the same command goes on")
        return saved

    def _one_step(self, micro: list[MicroBatch], waited: float, interruption: Interruption) -> bool:
        """One update and its bookkeeping; returns whether any rank was asked to stop."""
        skips = [skip for part in micro for skip in part.skips]
        for skip in skips:
            self.ledger.write(self.step, event="skipped sample", **skip._asdict())
            self.last_skip = skip.reason
        readable = [good for part in micro for good in part.readable]
        tokens, places = (sum(getattr(part, name) for part in micro) for name in ("tokens", "places"))
        own = (interruption.asked, self.bad.look(readable), len(skips), len(readable), tokens, places)
        rate = learning_rate(self.settings.optimizer, self.step, self.settings.steps)
        progress = self.step / self.settings.steps
        outcome = self.engine.step([part.batch for part in micro], progress, rate, [float(n) for n in own])
        stopping, bad_row, bad, samples, tokens, places = outcome.extra
        self.meter.add(samples=samples, tokens=tokens, places=places, waited=waited)
        last = self.last_skip or "see the other ranks' ledgers"
        self.bad.count(int(samples), int(bad), too_many_in_a_row=bad_row > 0, last=last)
        self._log(outcome, micro[0].batch.source, rate)
        self._judge(outcome, micro)
        self.step += 1
        self.updates += outcome.finite
        self.display.tick(self.step)
        return stopping > 0

    def _judge(self, outcome: Outcome, micro: list[MicroBatch]) -> None:
        if not outcome.finite:
            # A gradient alone names nobody: then it is any row of the step.
            rows = [uid for part in micro for uid in part.batch.uid.tolist()]
            for objective, uids in outcome.culprits or [("gradient, or another rank", rows)]:
                names = [name for uid in uids for name in self._names(uid)]
                self.ledger.write(self.step, event="skipped update", objective=objective, uids=uids, samples=names)
            who = "; ".join(f"{objective}: uids {uids}" for objective, uids in outcome.culprits) or "a gradient"
            self.display.say(f"step {self.step}: not finite ({who}); this update is skipped")
        else:
            for sentence in self.collapse.look(outcome.metrics, self.step / self.settings.steps):
                self.display.say(f"step {self.step}: {sentence}")
        self.nonfinite.count(self.step, outcome.finite)

    def _names(self, uid: int) -> list[str]:
        source = self.sources[uid >> UID_SHIFT]
        return [f"{source.name}/{key}" for key in source.keys_of(uid & ((1 << UID_SHIFT) - 1))]

    def _log(self, outcome: Outcome, source: str, rate: float) -> None:
        done = self.step + 1
        self.meter.add_metrics(outcome.metrics)
        if self.record is None or (done % self.settings.log_every and done != self.settings.steps):
            return
        figures, blocks = self.meter.read()
        values = {
            "learning_rate": rate,
            "gradient_norm": outcome.gradient_norm,
            "skipped_updates": float(self.nonfinite.total + (not outcome.finite)),
            "bad_samples": float(self.bad.bad),
            **figures,
        }
        self.record.write(self.step, done, source, values, plain(blocks))
        for sentence in self.loads.look(blocks):
            self.display.say(f"step {done}: {sentence}")
        self.display.show(done, values, blocks)

    def _probe(self) -> None:
        """All ranks: gather; rank 0: load a copy, score it, and log. What is raised, all ranks raise."""
        if self.probes is None or not self.probes.due(self.step):
            return
        probes, began = self.probes, time.perf_counter()
        weights = self.engine.whole_weights("backbone.")

        def look() -> None:
            figures, troubles = probes.look(weights, self.step, self.world.device)
            for trouble in troubles:
                self.display.say(f"step {self.step}: {trouble}")
            if self.record and figures:
                self.record.note(max(self.step - 1, 0), self.step, figures)
                self.display.probed(self.step, figures)

        _agreed(self.world, look)
        self.meter.pause(time.perf_counter() - began)

    def _save(self) -> Path:
        """All ranks: gather; rank 0: commit and prune. A failure is raised on every rank."""
        weights, moments = self.engine.whole_state()
        state = {
            "step": self.step,
            "updates": self.updates,
            "bad_samples": {"seen": self.bad.seen, "bad": self.bad.bad, "in_a_row": self.bad.in_a_row},
            "nonfinite": {"in_a_row": self.nonfinite.in_a_row, "total": self.nonfinite.total},
            "watches": {"collapse": self.collapse.state(), "experts": self.loads.state()},
        }
        folder = self.run / "checkpoints"

        def publish() -> None:
            self.ledger.sync()
            checkpoint.commit(folder, checkpoint.Saved(weights, moments, state))
            checkpoint.prune(folder, keep_last=self.settings.keep_last, keep_every=self.settings.keep_every)

        _agreed(self.world, publish)
        return folder / f"step-{self.step:09d}"


def _ledger_name(rank: int) -> str:
    return "ledger.jsonl" if rank == 0 else f"ledger-rank{rank:05d}.jsonl"


def wind_back_others(run: Path, ranks: int, step: int) -> None:
    """The ledgers of ranks that an earlier start had and this one lacks: their later lines are done again too."""
    mine = {_ledger_name(rank) for rank in range(ranks)}
    for path in run.glob("ledger-rank*.jsonl"):
        if path.name not in mine:
            Lines(path, step)
