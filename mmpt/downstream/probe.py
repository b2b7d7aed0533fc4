"""`mmpt probe`: what frozen features know of a label, beside the untrained encoder and classical baselines."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from mmpt.data.manifest import Manifest, load_manifest
from mmpt.downstream.attentive import attentive_probe
from mmpt.downstream.classify import SCORES, Bootstrap, Choice, Fold, grouped_folds, linear_probe, neighbour_probe
from mmpt.downstream.described import Described, describe, tracked
from mmpt.downstream.encoder import Encoder, load
from mmpt.downstream.few_labels import Probe, Reference, check_shares, curves
from mmpt.downstream.fields import check_fields
from mmpt.downstream.labelled import VALIDATION, Labelled, find_labelled
from mmpt.downstream.result import KINDS, Curve, Interval, ProbeResult, ProbeRow
from mmpt.errors import DataError

DRAWS = 5  # of each share
ATTENTIVE = ("attentive", "attentive_balanced", "attentive_f1")  # in the order of SCORES


def probe(
    run: str | Path,
    data: str | Path,
    *,
    label: str,
    streams: Sequence[str] | None = None,
    splits: tuple[str, str] = ("train", "test"),
    score: str = "accuracy",
    kind: str = "linear",
    shares: Sequence[float | int] = (),
    draws: int = DRAWS,
    untrained: bool = True,
    max_samples: int | None = None,
    skip_unlabelled: bool = False,
    step: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> ProbeResult:
    """Probes of a run's frozen features; also written to `RUN/probe-DATA-LABEL[-STREAMS][-KIND].json`.

    The linear and the kNN probe are always made, on the mean and standard deviation over a sample's tokens. Strength, k
    and updates are chosen on the split `validation`, or by cross-validation over groups of the training split where
    there is none; the test split is looked at once.

    Args:
        run: the run folder.
        data: a data set with labels: its JSON member holds them by key.
        label: the key.
        streams: to make features from; by default all of the run's that the data set has, in one sequence.
        splits: to fit on, and to be judged by.
        score: by which settings are chosen and the gain is told: `accuracy`, `balanced` (mean over classes) or
            `macro_f1`, for classes of very different sizes.
        kind: of the probe that gain and curves are told of: `linear`, `knn`, or `attentive`, a learned query over all
            tokens (Bardes et al. 2024), which keeps them in memory; beside it, classical features have the linear one.
        shares: of the training labels, as (0.01, 0.1, 1): the score with so few of them, by stratified draws.
        draws: of each share.
        untrained: whether to probe the encoder as it was before training, too.
        max_samples: of every split, drawn by `seed`; None takes all.
        skip_unlabelled: leave samples without the label out, and say so, instead of refusing.
        step: of the checkpoint; the newest by default.
        seed: of the bootstrap, cross-validation, draws, the learned query and `max_samples`.
        console: shows progress; None is quiet.

    Raises:
        DataError: no such label, one missing from some samples, groups in two splits, too many unreadable samples, no
            stream in common, or a setting that is none of those above.
        CheckpointError: not a run folder, or no checkpoint of that step.
    """
    for name, given, known in (("score", score, SCORES), ("kind", kind, KINDS)):
        if given not in known:
            raise DataError(f"{name}: expected one of {', '.join(known)}, got '{given}'")
    wanted = check_shares(shares, draws)
    encoders = {"pretrained": load(run, step=step)}
    if untrained:
        encoders["untrained"] = load(run, untrained=True)
    manifest = load_manifest(data)
    used = _streams(encoders["pretrained"], manifest, streams)
    labelled = find_labelled(
        manifest, label, used, splits, max_samples=max_samples, skip_unlabelled=skip_unlabelled, seed=seed
    )
    described = describe(encoders, manifest, used, labelled, tokens=kind == "attentive", console=console)
    with threadpool_limits(limits=1):  # the fits are small: more threads only wait for one another
        judged = Judge(described, kind, score, seed, console).all(wanted, draws)
    samples, groups = _sizes(described.labelled)
    result = ProbeResult(
        run=str(run),
        step=encoders["pretrained"].step,
        data=str(data),
        label=label,
        streams=used,
        classes=labelled.classes,
        samples=samples,
        groups=groups,
        rows=judged.rows,
        score=score,
        gain=judged.gain,
        chosen_by=judged.chosen_by,
        notes=described.notes + judged.notes,
        seed=seed,
        kind=kind,
        curves=judged.curves,
    )
    result.write(Path(run), narrowed=streams is not None)
    return result


def _streams(encoder: Encoder, manifest: Manifest, asked: Sequence[str] | None) -> tuple[str, ...]:
    fields = manifest.fields
    used = tuple(asked) if asked else tuple(name for name in encoder.modalities if name in fields)
    if not used:
        theirs, ours = ", ".join(fields), ", ".join(encoder.modalities)
        raise DataError(f"{manifest.folder}: has the fields {theirs}, and none of the run's streams {ours}")
    check_fields("the run", encoder.modalities, manifest, used)
    return used


class Judged(NamedTuple):
    """Rows of the table, the gain over the untrained encoder, curves, and what the settings were chosen by."""

    rows: tuple[ProbeRow, ...]
    gain: Interval | None
    curves: tuple[Curve, ...]
    chosen_by: str
    notes: tuple[str, ...]


class Judge:
    """Fits and scores every kind of features on the same folds and resamples."""

    def __init__(self, described: Described, kind: str, score: str, seed: int, console: Console | None) -> None:
        self.described, self.labelled = described, described.labelled
        self.kind, self.score, self.seed, self.console = kind, score, seed, console
        self.train, self.test = self.labelled.indices("train"), self.labelled.indices("test")
        self.bootstrap = Bootstrap(self.labelled.labels[self.test], self.labelled.groups[self.test], seed)

    def all(self, shares: Sequence[float], draws: int) -> Judged:
        """The table, and a curve for each kind of features where there are shares."""
        folds, chosen_by = folds_of(self.labelled, self.seed)
        rows, guesses = [], {}
        for name in tracked(list(self.described.features), "probing", self.console):
            row, guesses[name] = self._row(name, folds)
            rows.append(row)
        rows.append(self._commonest())
        gain = None
        if "untrained" in guesses:
            gain = self.bootstrap.difference(guesses["pretrained"], guesses["untrained"], self.score)
        found, notes = (), ()
        if shares:
            found, notes = curves(
                {name: self._probe(name) for name in guesses},
                self.labelled,
                Reference(len(self.train), guesses),
                self.bootstrap,
                score=self.score,
                shares=shares,
                draws=draws,
                seed=self.seed,
                shown=partial(tracked, console=self.console),
            )
        return Judged(tuple(rows), gain, found, chosen_by, notes)

    def _row(self, name: str, folds: Sequence[Fold]) -> tuple[ProbeRow, np.ndarray]:
        """Every probe of these features, and what the one that was asked for says of the test rows."""
        made = {kind: self._fit(kind, name, folds, self.train) for kind in ("linear", "knn")}
        if name in self.described.tokens:
            made["attentive"] = self._fit("attentive", name, folds, self.train)
        scores = {kind: [self.bootstrap.interval(own.predicted, one) for one in SCORES] for kind, own in made.items()}
        attentive = dict(zip(ATTENTIVE, scores.get("attentive", ()), strict=False))
        settings = {"strength": made["linear"].setting, "neighbours": int(made["knn"].setting)}
        updates = int(made["attentive"].setting) if "attentive" in made else None
        row = ProbeRow(name, *scores["linear"], *scores["knn"], **settings, **attentive, updates=updates)
        return row, made[self._kind_for(name)].predicted

    def _commonest(self) -> ProbeRow:
        majority = np.full(len(self.test), np.bincount(self.labelled.labels[self.train]).argmax())
        scores = [self.bootstrap.interval(majority, one) for one in SCORES]
        attentive = dict(zip(ATTENTIVE, scores, strict=True)) if self.described.tokens else {}
        return ProbeRow("commonest class", *scores, **attentive)

    def _kind_for(self, name: str) -> str:
        """Classical features have no tokens to attend to: beside an attentive probe they have the linear one."""
        return "linear" if self.kind == "attentive" and name not in self.described.tokens else self.kind

    def _probe(self, name: str) -> Probe:
        return partial(self._fit, self._kind_for(name), name)

    def _fit(self, kind: str, name: str, folds: Sequence[Fold], rows: np.ndarray) -> Choice:
        labels, score = self.labelled.labels, SCORES[self.score]
        if kind == "attentive":
            return attentive_probe(self.described.tokens[name], labels, folds, rows, self.test, score, self.seed)
        fit = linear_probe if kind == "linear" else neighbour_probe
        return fit(self.described.features[name], labels, folds, rows, self.test, score)


def _sizes(labelled: Labelled) -> tuple[dict[str, int], dict[str, int]]:
    """Samples and groups by purpose."""
    own = {part: labelled.indices(part) for part in ("train", VALIDATION, "test")}
    used = {part: indices for part, indices in own.items() if len(indices)}
    groups = {part: len(np.unique(labelled.groups[indices])) for part, indices in used.items()}
    return {part: len(indices) for part, indices in used.items()}, groups


def folds_of(labelled: Labelled, seed: int) -> tuple[list[Fold], str]:
    """What settings are chosen on, and what that is called."""
    train, validation = labelled.indices("train"), labelled.indices(VALIDATION)
    if len(validation):
        return [(train, validation)], "the validation split"
    folds = grouped_folds(train, labelled.labels[train], labelled.groups[train], seed)
    if not folds:
        raise DataError("the training split is too small to cross-validate over groups; add a split 'validation'")
    return folds, "cross-validation over groups of the training split"
