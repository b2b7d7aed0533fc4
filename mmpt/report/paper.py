"""ECG on the usual paper: 1 mm and 5 mm of pink, 25 mm a second, 10 mm a millivolt."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from mmpt.report.drawing import MARGIN, WIDTH

FINE, COARSE = (0.04, 0.1), (0.2, 0.5)  # seconds and millivolts that 1 mm and 5 mm of paper stand for
PINK, ROSE, SHADE = "#fbdfe3", "#f1aab6", "#8f99a6"
FINEST = 13.0  # seconds from which on the fine grid would be a pink ground
LABEL = 0.55  # inches for the leads' names
TALLEST = 11.0  # inches that all leads together may take
LINES = (1.0, 6.0)  # least and largest distance between two leads, in millivolts


class Recording(NamedTuple):
    """Leads, what was hidden of them, and what was predicted there; NaN where there is nothing."""

    leads: tuple[str, ...]
    sample_rate: float
    unit: str
    original: Float[np.ndarray, "T C"]
    hidden: Bool[np.ndarray, "T C"]
    predicted: Float[np.ndarray, "T C"]

    @property
    def seconds(self) -> float:
        """From the first sample to the last."""
        return len(self.original) / self.sample_rate

    @property
    def spacing(self) -> float:
        """Between two leads: what the widest of them needs, in steps of the coarse grid."""
        finite = np.isfinite(self.original)
        spans = [np.ptp(lead[real]) for lead, real in zip(self.original.T, finite.T, strict=True) if real.any()]
        step = COARSE[1]
        return float(np.clip(np.ceil(max(spans, default=0.0) / step) * step + step, *LINES))

    @property
    def height(self) -> float:
        """Inches on a figure, with a millivolt as long as on paper where that is not too long."""
        return 0.45 + self.spacing * len(self.leads) * self._millivolt

    @property
    def _millivolt(self) -> float:
        second = (WIDTH - 2 * MARGIN - LABEL) / self.seconds
        highest = TALLEST / (self.spacing * len(self.leads))
        return float(min(np.clip(second * FINE[0] / FINE[1], 0.25, 0.6), highest))


def draw_recording(recording: Recording, figure: FigureBase) -> None:
    """One line a lead: the original in black, hidden spans shaded, predictions red."""
    foot, height = 0.35, recording.height
    left = MARGIN + LABEL
    axes = figure.add_axes((left / WIDTH, foot / height, 1 - (left + MARGIN) / WIDTH, 1 - (foot + 0.05) / height))
    spacing, count = recording.spacing, len(recording.leads)
    _grid(axes, recording.seconds, spacing * count)
    time = np.arange(len(recording.original)) / recording.sample_rate
    for number, lead in enumerate(recording.leads):
        base = spacing * (count - number - 0.5)
        own = np.clip(recording.original[:, number] - _middle(recording.original[:, number]), -spacing, spacing)
        guess = np.clip(recording.predicted[:, number] - _middle(recording.original[:, number]), -spacing, spacing)
        half = spacing / 2 * 0.96
        shaded = {"facecolor": SHADE, "alpha": 0.28, "linewidth": 0, "zorder": 1.5}
        axes.fill_between(time, base - half, base + half, where=recording.hidden[:, number].tolist(), **shaded)
        axes.plot(time, base + own, color="black", linewidth=0.7)
        axes.plot(time, base + guess, color="#d0021b", linewidth=0.8)
        if not np.isfinite(recording.original[:, number]).any():
            axes.text(
                recording.seconds / 2, base, "not observed", ha="center", va="center", fontsize=8, color="#6b7480"
            )
        axes.text(-0.008, base, lead, ha="right", va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.set(xlim=(0, recording.seconds), ylim=(0, spacing * count), yticks=[])
    axes.set_xlabel(f"seconds; a fine square is 0.04 s by 0.1 {recording.unit}", fontsize=8)
    axes.tick_params(labelsize=7, length=2)
    axes.spines[:].set_color(ROSE)


def _grid(axes: Axes, seconds: float, height: float) -> None:
    for (across, up), colour, width in ((FINE, PINK, 0.4), (COARSE, ROSE, 0.6)):
        if colour == ROSE or seconds <= FINEST:
            axes.vlines(np.arange(0, seconds, across), 0, height, colors=colour, linewidths=width, zorder=1)
            axes.hlines(np.arange(0, height, up), 0, seconds, colors=colour, linewidths=width, zorder=1)


def _middle(lead: Float[np.ndarray, " T"]) -> float:
    """Half-way between the extremes, which stands on the lead's line; 0 where nothing was observed."""
    finite = lead[np.isfinite(lead)]
    return float((finite.min() + finite.max()) / 2) if len(finite) else 0.0
