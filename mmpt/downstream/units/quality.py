"""What units are worth: how they are used, how long they last, and what they tell of given labels."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int
from rich.table import Table

SHOWN = 3  # of the commonest clusters


@dataclass(frozen=True)
class OneUnit:
    """Figures of one cluster: frames that it labels, and how long it lasts on average, in frames and in seconds."""

    frames: int
    run_length: float
    seconds: float | None


@dataclass(frozen=True)
class UnitQuality:
    """Figures of a labelled data set.

    Args:
        frames: labelled.
        clusters: V.
        used: clusters that label any frame.
        perplexity: clusters that would be used as evenly: exp of the entropy of their shares.
        run_length: mean frames from one change of unit to the next.
        seconds: the same in time, where frames have a rate.
        purity: share of frames whose label is the commonest of their unit (HuBERT, section V.B: phone purity).
        pnmi: mutual information of label and unit over the entropy of the label: what the unit tells of it.
        each: the same of every cluster by itself, from number 0.
    """

    frames: int
    clusters: int
    used: int
    perplexity: float
    run_length: float
    seconds: float | None
    purity: float | None = None
    pnmi: float | None = None
    each: tuple["OneUnit", ...] = ()

    def to_json(self) -> str:
        """What `mmpt units label` leaves beside the labels."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title="units", show_header=False)
        frames = [own.frames for own in self.each]
        commonest = sorted(range(len(frames)), key=lambda unit: -frames[unit])[:SHOWN]
        rows = {
            "frames": f"{self.frames:,}",
            "clusters used": f"{self.used} of {self.clusters}",
            "perplexity": f"{self.perplexity:.1f}",
            "mean length": f"{self.run_length:.2f} frames" + (f", {self.seconds:.3f} s" if self.seconds else ""),
            "frames a cluster": f"{min(frames, default=0):,} to {max(frames, default=0):,}",
            "commonest": ", ".join(f"{unit} ({self._of(unit)})" for unit in commonest if frames[unit]),
        }
        if self.pnmi is not None:
            rows |= {"purity": f"{self.purity:.3f}", "PNMI": f"{self.pnmi:.3f}"}
        for name, value in rows.items():
            table.add_row(name, value)
        return table

    def _of(self, unit: int) -> str:
        own = self.each[unit]
        return f"{own.frames / self.frames:.1%} of the frames, {own.run_length:.1f} long"


@dataclass
class Tally:
    """Adds up what quality needs, a sample at a time."""

    clusters: int
    counts: Int[np.ndarray, " V"] = field(init=False)
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)  # of unit and label
    runs: Int[np.ndarray, " V"] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.clusters, dtype=np.int64)
        self.runs = np.zeros(self.clusters, dtype=np.int64)

    def add(self, units: Int[np.ndarray, " T"], labels: Int[np.ndarray, " T"] | None) -> None:
        """Of one sample; frames whose label is below 0, and None, are left out of purity and PNMI."""
        self.counts += np.bincount(units, minlength=self.clusters)
        begins = np.diff(units, prepend=-1) != 0
        self.runs += np.bincount(units[begins], minlength=self.clusters)
        if labels is not None:
            known = labels >= 0
            pairs, counts = np.unique(np.stack([units[known], labels[known]]), axis=1, return_counts=True)
            self.pairs.update(dict(zip(map(tuple, pairs.T.tolist()), counts.tolist(), strict=True)))

    def quality(self, rate: Fraction | None) -> UnitQuality:
        """Of everything added."""
        frames = int(self.counts.sum())
        shares = self.counts[self.counts > 0] / max(frames, 1)
        perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
        length = frames / max(int(self.runs.sum()), 1)
        told = purity_and_pnmi(self._matrix()) if self.pairs else (None, None)
        each = tuple(
            OneUnit(count, count / runs if runs else 0.0, _seconds(count / runs if runs else 0.0, rate))
            for count, runs in zip(self.counts.tolist(), self.runs.tolist(), strict=True)
        )
        return UnitQuality(
            frames, self.clusters, len(shares), perplexity, length, _seconds(length, rate), *told, each=each
        )

    def _matrix(self) -> Float[np.ndarray, "L V"]:
        labels = {label: row for row, label in enumerate(sorted({label for _, label in self.pairs}))}
        matrix = np.zeros((len(labels), self.clusters))
        for (unit, label), count in self.pairs.items():
            matrix[labels[label], unit] += count
        return matrix


def _seconds(frames: float, rate: Fraction | None) -> float | None:
    return None if rate is None else frames / float(rate)


def purity_and_pnmi(counts: Float[np.ndarray, "L V"]) -> tuple[float, float]:
    """Of frames counted by label and unit; PNMI is 0 where there is one label only."""
    joint = counts / counts.sum()
    label, unit = joint.sum(1), joint.sum(0)
    entropy = -(label[label > 0] * np.log(label[label > 0])).sum()
    there = joint > 0
    information = (joint[there] * np.log(joint[there] / np.outer(label, unit)[there])).sum()
    return float(joint.max(0).sum()), float(information / entropy) if entropy > 0 else 0.0
