"""The same fit with several seeds: what of a score is chance."""

import io
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from mmpt.errors import ConfigError
from mmpt.finetune.result import FitResult
from mmpt.finetune.tasks import Task


class Spread(NamedTuple):
    """Of one score over seeds."""

    mean: float
    deviation: float  # of a sample: divided by one less than there are seeds

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.deviation:.3f}"


@dataclass(frozen=True)
class Repeats:
    """Results by seed; each has intervals of its own, over samples, where these are over fits."""

    fits: Mapping[int, FitResult]

    def metrics(self) -> dict[str, Spread]:
        """Mean and standard deviation on the validation data."""
        return self._spread("metrics")

    def test(self) -> dict[str, Spread]:
        """The same on the test data, where there was any."""
        return self._spread("test")

    def _spread(self, part: str) -> dict[str, Spread]:
        every = [getattr(own, part) for own in self.fits.values()]
        values = {name: np.array([own[name].value for own in every]) for name in every[0]}
        return {name: Spread(float(own.mean()), float(own.std(ddof=1))) for name, own in values.items()}

    def table(self) -> Table:
        """For a terminal."""
        first = next(iter(self.fits.values()))
        table = Table("metric", "validation", "trivial", title=f"{first.task.title}, {len(self.fits)} seeds")
        if first.test:
            table.add_column("test")
            table.add_column("trivial")
        test = self.test() if first.test else {}
        for name, own in self.metrics().items():
            cells = [str(own), f"{first.trivial[name]:.3f}"]  # a guess by the labels alone: every seed's is the same
            table.add_row(name, *cells, *([str(test[name]), f"{first.trivial_test[name]:.3f}"] if test else []))
        table.caption = f"mean ± standard deviation over seeds {', '.join(map(str, self.fits))}"
        return table

    def __str__(self) -> str:
        page = io.StringIO()
        Console(width=120, color_system=None, file=page).print(self.table())
        return page.getvalue()


def repeat(
    task: Task,
    train: Any,
    validation: Any = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path | None = None,
    **settings: Any,
) -> Repeats:
    """Fit copies of a task, one a seed: other weights of the head, another order, the same samples.

    Args:
        task: stays as it is; every result has a fitted copy.
        train: as in `Task.fit`.
        validation: likewise.
        seeds: two or more, all different.
        out: gets a folder `seed-N` a fit; with it the same call goes on where it was stopped.
        **settings: all else that `Task.fit` takes.

    Raises:
        ConfigError: fewer than two seeds; otherwise what `Task.fit` raises.
    """
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: expected two or more that differ, got {', '.join(map(str, seeds)) or 'none'}")
    fits = {}
    for seed in seeds:
        folder = None if out is None else Path(out) / f"seed-{seed}"
        fits[seed] = copy(task).fit(train, validation, out=folder, seed=seed, **settings)
    return Repeats(fits)
