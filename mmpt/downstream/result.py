"""What a probe found: scores with their intervals, as a table and as JSON."""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

TASK, RESULT = "task.json", "result.json"  # of a fitted task's folder: what it is, and what its fit came to
KINDS = {"linear": "linear", "knn": "kNN", "attentive": "attentive"}
ENDINGS = {"accuracy": "", "balanced": "_balanced", "macro_f1": "_f1"}  # of a score's name in a row
SCORE_NAMES = {"accuracy": "accuracy", "balanced": "balanced", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class SharePoint:
    """A score with a share of the labels, or of the pairs.

    Args:
        share: of the training samples. samples: how many that is. draws: of them.
        score: mean over the draws; its interval is over draws and resampled groups of the test split together.
        deviation: standard deviation over the draws; 0 where there is one.
        gain: how much higher the mean is than on the untrained encoder's features, with the same draws and resamples.
    """

    share: float
    samples: int
    draws: int
    score: Interval
    deviation: float
    gain: Interval | None = None


@dataclass(frozen=True)
class Curve:
    """Points of one kind of features, by share."""

    name: str
    points: tuple[SharePoint, ...]


def point_text(point: SharePoint) -> str:
    """Mean, deviation and interval."""
    return f"{point.score.value:.3f} ± {point.deviation:.3f} [{point.score.low:.3f}, {point.score.high:.3f}]"


CURVE_CAPTION = (
    "mean over draws ± their standard deviation [95 % over draws and resampled groups]; settings are chosen inside the "
    "drawn labels, at 1 as in the table"
)

PAIR_CAPTION = (
    "a linear map from one stream's frozen features to the other's, by ridge regression on the drawn pairs, then the "
    "nearest by cosine"
)


@dataclass(frozen=True)
class ProbeRow:
    """Scores of one kind of features on the test split; None where a score makes no sense.

    Args:
        name: of the features.
        linear: accuracy of the linear probe. linear_balanced: mean accuracy over classes. linear_f1: mean F1 over
            classes (macro-F1).
        knn, knn_balanced, knn_f1: the same of the nearest neighbours.
        attentive, attentive_balanced, attentive_f1: of a learned query over tokens, where it was asked for; classical
            features have no tokens.
        strength: C of the logistic regression,
        neighbours: k, and
        updates: of the learned query, all as chosen without the test split.
    """

    name: str
    linear: Interval
    linear_balanced: Interval
    linear_f1: Interval
    knn: Interval | None = None
    knn_balanced: Interval | None = None
    knn_f1: Interval | None = None
    strength: float | None = field(default=None, kw_only=True)
    neighbours: int | None = field(default=None, kw_only=True)
    attentive: Interval | None = field(default=None, kw_only=True)
    attentive_balanced: Interval | None = field(default=None, kw_only=True)
    attentive_f1: Interval | None = field(default=None, kw_only=True)
    updates: int | None = field(default=None, kw_only=True)

    def score(self, kind: str, name: str) -> Interval | None:
        """Of a kind of probe: `accuracy`, `balanced` or `macro_f1`."""
        return getattr(self, f"{kind}{ENDINGS[name]}")


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Args:
        run: the folder. step: of the checkpoint. data: the data set's folder. label: the key.
        streams: that the features were made from.
        classes: in order. samples, groups: how many, by purpose (`train`, `validation`, `test`).
        rows: pretrained, untrained, baselines.
        score: that the settings were chosen by and the gain is in: `accuracy`, `balanced` or `macro_f1`.
        gain: how much higher the score of the probe of this `kind` is than on the untrained encoder's features, paired.
        chosen_by: what the settings were judged on. notes: whatever else one should know. seed: of all draws.
        kind: of the probe that the gain and the curves are of: `linear`, `knn` or `attentive`.
        curves: the score with shares of the training labels, by features; empty where nobody asked.
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
    score: str
    gain: Interval | None
    chosen_by: str
    notes: tuple[str, ...]
    seed: int
    kind: str = "linear"
    curves: tuple[Curve, ...] = ()

    def row(self, name: str) -> ProbeRow:
        """Of the features of this name, a baseline's among them; raises StopIteration where there are none."""
        return next(row for row in self.rows if row.name == name)

    def __str__(self) -> str:
        """The table as plain text."""
        page = io.StringIO()
        Console(width=120, color_system=None, file=page).print(self.table())
        return page.getvalue()

    def table(self) -> Table:
        """For a terminal; narrow ones put the interval under the score."""
        title = Text(f"{self.label} of {self.data} from {' + '.join(self.streams)}")
        first = "attentive" if self.kind == "attentive" else "linear"
        others = [kind for kind in ("linear", "knn") if kind != first]
        heads = [f"{first}, {name}" for name in SCORE_NAMES.values()] + [f"{KINDS[kind]}, accuracy" for kind in others]
        table = Table("features", *heads, title=title)
        for row in self.rows:
            scores = [row.score(first, name) for name in SCORE_NAMES] + [row.score(kind, "accuracy") for kind in others]
            table.add_row(*(Text("-" if cell is None else str(cell)) for cell in (row.name, *scores)))
        table.caption = Text(self.caption(), justify="left")
        return table

    def curve_table(self) -> Table | None:
        """The curves for a terminal; None where there are none."""
        if not self.curves:
            return None
        sizes = [f"{point.share:g} ({point.samples})" for point in self.curves[0].points]
        what = f"{KINDS[self.kind]} {SCORE_NAMES[self.score]} by share of the training labels (and their number)"
        table = Table("features", *sizes, title=Text(what))
        for curve in self.curves:
            table.add_row(*(Text(cell) for cell in (curve.name, *map(point_text, curve.points))))
        if any(point.gain for point in self.curves[0].points):
            gains = [
                f"{p.gain.value:+.3f} [{p.gain.low:+.3f}, {p.gain.high:+.3f}]" for p in self.curves[0].points if p.gain
            ]
            table.add_row(*(Text(cell) for cell in ("over untrained", *gains)))
        table.caption = Text(CURVE_CAPTION, justify="left")
        return table

    def caption(self) -> str:
        """Sizes, what the figures are, and the notes."""
        sizes = ", ".join(f"{count} {part} ({self.groups[part]} groups)" for part, count in self.samples.items())
        lines = [
            f"{len(self.classes)} classes; samples: {sizes}",
            f"accuracy, balanced accuracy and macro-F1 on test, 95 % interval by resampling groups; settings chosen by "
            f"{SCORE_NAMES[self.score]} on {self.chosen_by}",
            "encoder features: mean and standard deviation over a sample's tokens",
        ]
        if self.gain:
            value, low, high = (f"{number:+.3f}" for number in (self.gain.value, self.gain.low, self.gain.high))
            lines.append(f"{KINDS[self.kind]} {SCORE_NAMES[self.score]} over untrained: {value}, {low} to {high}")
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> str:
        """All of it, by the fields' names."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def write(self, run: Path, *, narrowed: bool) -> Path:
        """Put it into the run folder, where the report looks for it; the streams are named if they were chosen."""
        kind = () if self.kind == "linear" else (self.kind,)
        parts = [Path(self.data).resolve().name, self.label, *(self.streams if narrowed else ()), *kind]
        file = run / f"probe-{re.sub(r'[^a-zA-Z0-9_.-]+', '_', '-'.join(parts))}.json"
        staged = file.with_name(f".{file.name}.staged")
        staged.write_text(self.to_json(), encoding="utf-8")
        staged.replace(file)
        return file
