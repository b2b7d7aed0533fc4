"""What a user sees while a run goes: a live line on a terminal, plain lines elsewhere; the rest goes to the log."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmpt.training.expert_loads import Blocks, apart, figures_of, told


@contextmanager
def quiet(log: Path, *, speaks: bool) -> Iterator[Console]:
    """Send whatever libraries print to `log`, and give a console that still reaches the user (on rank 0).

    The redirection is of file descriptors 1 and 2, because much of the chatter comes from C++.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    output = os.fdopen(os.dup(kept[0]), "w", encoding="utf-8") if speaks else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        yield Console(file=output, highlight=False, soft_wrap=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        output.close()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)


RANKINGS = ("/spearman", "/hard_overlap", "/hard_overlap_by_chance")  # how well hard tokens are told from easy ones
SPREADS = ("/target_std", "/prediction_std", "/latent_std", "/code_perplexity")  # near 0: collapsed


class Meter:
    """Rates and means over the steps since the last look."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._began = time.perf_counter()
        self._sums = {"samples": 0.0, "tokens": 0.0, "places": 0.0, "waited": 0.0, "steps": 0.0}
        self._metrics: dict[str, tuple[float, float]] = {}

    def add(self, *, samples: float, tokens: float, places: float, waited: float) -> None:
        """One step: samples, valid tokens and places over all ranks, seconds that this rank waited for data."""
        for name, value in zip(self._sums, (samples, tokens, places, waited, 1), strict=True):
            self._sums[name] += value

    def pause(self, seconds: float) -> None:
        """Time that no step took."""
        self._began += seconds

    def add_metrics(self, metrics: dict[str, tuple[float, float]]) -> None:
        """One step's figures as (sum, count); a step without a stream adds nothing to its figures."""
        for name, (total, count) in metrics.items():
            before = self._metrics.get(name, (0.0, 0.0))
            self._metrics[name] = before[0] + total, before[1] + count

    def read(self) -> tuple[dict[str, float], Blocks]:
        """Means of the metrics, rates, seconds a step, shares of padding and of waiting for data; what experts got.

        Starts anew.
        """
        seconds = max(time.perf_counter() - self._began, 1e-9)
        sums, (metrics, blocks) = self._sums, apart(self._metrics)
        self._start()
        figures = {
            **{name: total / max(count, 1) for name, (total, count) in sorted(metrics.items())},
            **figures_of(blocks),
            "samples_per_second": sums["samples"] / seconds,
            "tokens_per_second": sums["tokens"] / seconds,
            "seconds_per_step": seconds / max(sums["steps"], 1),
            "padding_share": 1 - sums["tokens"] / max(sums["places"], 1),
            "data_wait_share": min(sums["waited"] / seconds, 1.0),
        }
        return figures, blocks


class Display:
    """The run's progress on a console."""

    def __init__(self, console: Console, steps: int) -> None:
        self.console, self.steps, self.first = console, steps, 0
        self._probed = ""
        columns = (
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=console) if console.is_terminal else None

    def start(self, first: int) -> "Display":
        """From this step on; the clock runs."""
        self.first, self._began = first, time.perf_counter()
        return self

    def __enter__(self) -> "Display":
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task("starting", total=self.steps, completed=self.first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def tick(self, step: int) -> None:
        """`step` steps are done."""
        if self.bar:
            self.bar.update(self.task, completed=step)

    def show(self, step: int, values: dict[str, float], blocks: Blocks) -> None:
        """The newest figures."""
        losses = "  ".join(f"{n.removesuffix('/loss')} {v:.3f}" for n, v in values.items() if n.endswith("/loss"))
        ranks = "".join(f"{n} {v:.2f}  " for n, v in values.items() if n.endswith(RANKINGS + SPREADS))
        ranks += f"{told(blocks)}  " if blocks else ""
        figures = (
            f"loss {losses}  {ranks}{self._probed}lr {values['learning_rate']:.2e}  "
            f"{values['samples_per_second']:.0f} samples/s  "
            f"{values['tokens_per_second']:.0f} tokens/s  data-wait {values['data_wait_share']:.0%}  "
            f"padding {values['padding_share']:.0%}"
        )
        if self.bar:
            self.bar.update(self.task, description=figures, completed=step)
            return
        left = (time.perf_counter() - self._began) / max(step - self.first, 1) * (self.steps - step)
        self.console.print(f"step {step}/{self.steps}  {figures}  left {_duration(left)}")

    def probed(self, step: int, figures: dict[str, float]) -> None:
        """Scores of frozen features; the newest stay on the line."""
        names = [name for name in figures if not name.endswith(("/low", "/high", "/commonest"))]
        told = []
        for name in names:
            key, _, score = name.rpartition("/")
            low, high = (figures.get(f"{key}/{end}", float("nan")) for end in ("low", "high"))
            own = f"{key.replace('/', ' ')} {score} {figures[name]:.3f} [{low:.3f}, {high:.3f}]"
            told.append(f"{own}, commonest {figures[f'{key}/commonest']:.3f}")
        self.say(f"step {step}/{self.steps}  {'; '.join(told)}")
        self._probed = "".join(f"{name.removeprefix('probe/')} {figures[name]:.3f}  " for name in names)

    def say(self, sentence: str) -> None:
        """Something that happened."""
        (self.bar.console if self.bar else self.console).print(sentence, markup=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
