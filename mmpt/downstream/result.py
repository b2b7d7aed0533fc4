"""What a probe found: scores with their intervals, as a table and as JSON."""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class ProbeRow:
    """Scores of one kind of features on the test split; None where a score makes no sense.

    Args:
        name: of the features.
        linear: accuracy of the linear probe. linear_balanced: mean accuracy over classes.
        knn: accuracy of the nearest neighbours. knn_balanced: mean accuracy over classes.
        strength: C of the logistic regression, and
        neighbours: k, both as chosen without the test split.
    """

    name: str
    linear: Interval
    linear_balanced: Interval
    knn: Interval | None = None
    knn_balanced: Interval | None = None
    strength: float | None = None
    neighbours: int | None = None


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Args:
        run: the folder. step: of the checkpoint. data: the data set's folder. label: the key.
        streams: that the features were made from.
        classes: in order. samples, groups: how many, by purpose (`train`, `validation`, `test`).
        rows: pretrained, untrained, baselines.
        gain: how much more often the linear probe is right than on the untrained encoder's features, paired.
        chosen_by: what the settings were chosen by. notes: whatever else one should know. seed: of all draws.
    """

    run: str
    step: int | None
    data: str
    label: str
    streams: tuple[str, ...]
    classes: tuple[str, ...]
    samples: Mapping[str, int]
    groups: Mapping[str, int]
    rows: tuple[ProbeRow, ...]
    gain: Interval | None
    chosen_by: str
    notes: tuple[str, ...]
    seed: int

    def row(self, name: str) -> ProbeRow:
        """Of the features of this name."""
        return next(row for row in self.rows if row.name == name)

    def __str__(self) -> str:
        """The table as plain text."""
        page = io.StringIO()
        Console(width=120, color_system=None, file=page).print(self.table())
        return page.getvalue()

    def table(self) -> Table:
        """For a terminal; narrow ones put the interval under the score."""
        title = Text(f"{self.label} of {self.data} from {' + '.join(self.streams)}")
        table = Table("features", "linear", "linear, balanced", "kNN", "kNN, balanced", title=title)
        for row in self.rows:
            scores = (row.linear, row.linear_balanced, row.knn, row.knn_balanced)
            table.add_row(*(Text("-" if cell is None else str(cell)) for cell in (row.name, *scores)))
        table.caption = Text(self.caption(), justify="left")
        return table

    def caption(self) -> str:
        """Sizes, what the figures are, and the notes."""
        sizes = ", ".join(f"{count} {part} ({self.groups[part]} groups)" for part, count in self.samples.items())
        lines = [
            f"{len(self.classes)} classes; samples: {sizes}",
            f"accuracy on test, 95 % interval by resampling groups; settings chosen by {self.chosen_by}",
            "encoder features: mean and standard deviation over a sample's tokens",
        ]
        if self.gain:
            lines.append(
                f"linear accuracy over untrained: {self.gain.value:+.3f}, {self.gain.low:+.3f} to {self.gain.high:+.3f}"
            )
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> str:
        """All of it, by the fields' names."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def write(self, run: Path, *, narrowed: bool) -> Path:
        """Put it into the run folder, where the report looks for it; the streams are named if they were chosen."""
        parts = [Path(self.data).resolve().name, self.label, *(self.streams if narrowed else ())]
        file = run / f"probe-{re.sub(r'[^a-zA-Z0-9_.-]+', '_', '-'.join(parts))}.json"
        staged = file.with_name(f".{file.name}.staged")
        staged.write_text(self.to_json(), encoding="utf-8")
        staged.replace(file)
        return file
