"""What a fit came to."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mmpt.downstream.result import Interval
from mmpt.downstream.tables import check_folder
from mmpt.errors import ConfigError

if TYPE_CHECKING:
    from mmpt.finetune.tasks import Task


@dataclass(frozen=True)
class FitResult:
    """Scores of the best epoch, each with its 95 % interval over resampled groups.

    Args:
        task: fitted: predicts with the best epoch's weights.
        metrics: on the validation data. trivial: those of one who never looks at a sample.
        test: on the test data, where there was any. trivial_test: likewise.
        metric: that epochs were compared by. best_epoch: from 1.
        history: a dict an epoch: training loss, validation metrics, seconds.
        samples: how many, by purpose. trained, parameters: numbers that were trained, and all.
        strategy: its name.
        notes: whatever else one should know.
        confusion: how often each class (row) was taken for each (column), on the test data or else the validation
            data; None where the task has no classes.
    """

    task: "Task"
    metrics: Mapping[str, Interval]
    trivial: Mapping[str, float]
    test: Mapping[str, Interval]
    trivial_test: Mapping[str, float]
    metric: str
    best_epoch: int
    history: tuple[Mapping[str, float], ...]
    samples: Mapping[str, int]
    trained: int
    parameters: int
    strategy: str
    notes: tuple[str, ...]
    confusion: list[list[int]] | None = None

    def table(self) -> Table:
        """For a terminal."""
        table = Table("metric", "validation", "trivial", title=self.task.title)
        if self.test:
            table.add_column("test")
            table.add_column("trivial")
        for name, value in self.metrics.items():
            cells = [str(value), f"{self.trivial[name]:.3f}"]
            cells += [str(self.test[name]), f"{self.trivial_test[name]:.3f}"] if self.test else []
            table.add_row(name, *cells)
        sizes = ", ".join(f"{count} {purpose}" for purpose, count in self.samples.items())
        lines = [
            f"samples: {sizes}; {self.strategy}: {self.trained:,} of {self.parameters:,} parameters trained; epoch "
            f"{self.best_epoch} of {len(self.history)} is the best by {self.metric}",
            *self.notes,
        ]
        table.caption, table.caption_justify = "\n".join(lines), "left"
        return table

    def __str__(self) -> str:
        """The table as plain text."""
        page = io.StringIO()
        Console(width=120, color_system=None, file=page).print(self.table())
        return page.getvalue()

    def to_json(self) -> str:
        """All but the task, by the fields' names."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "task"}
        for name in ("metrics", "test"):
            plain[name] = {metric: asdict(value) for metric, value in plain[name].items()}
        return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"

    def save(self, folder: str | Path) -> Path:
        """The fitted task, which `mmpt.finetune.load` reads, this result and its report.html.

        Raises ConfigError where anything is there, such as the run that the task began with; DataError where a file is.
        """
        from mmpt.finetune.saved import TASK, save

        folder = Path(folder)
        check_folder(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / TASK).exists():
            raise ConfigError(f"{folder}: is not empty; choose another folder")
        return save(self.task, folder, result=self)
