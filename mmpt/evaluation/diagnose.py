"""`mmpt diagnose`: how a run's latents lie in their space, modality by modality, block by block."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmpt.config import component
from mmpt.data.layouts import Layout
from mmpt.data.manifest import load_manifest
from mmpt.data.source import Source, SourceSettings, row_draw
from mmpt.downstream.fields import check_fields
from mmpt.errors import DataError
from mmpt.evaluation.collect import GROUPS, Codes, Collected, StreamSeen, collect, output_matrix
from mmpt.evaluation.diagnosis import (
    BlockDiagnosis,
    CodesDiagnosis,
    Diagnosis,
    ExpertsDiagnosis,
    Outlier,
    OutputDiagnosis,
    StreamDiagnosis,
)
from mmpt.evaluation.spectrum import (
    effective_rank,
    energy_rank,
    linear_shortcut,
    mean_cosine,
    numeric_rank,
    outlier_dimensions,
    singular_values,
)
from mmpt.evaluation.subject import Subject, subject_of
from mmpt.foreign.donor import ELSEWHERE
from mmpt.objectives.stream_objective import StreamObjective
from mmpt.tokens import Batch

SPLITS = ("validation", "test", "train")  # the first that there is
SAMPLES = 256
ROWS = 32  # that go through the trunk at once
DEAD = 0.01  # of a fair share


def diagnose(
    run: str | Path,
    data: str | Path | None = None,
    *,
    streams: Sequence[str] | None = None,
    split: str | None = None,
    samples: int = SAMPLES,
    step: int | None = None,
    untrained: bool = False,
    device: str | torch.device | None = None,
) -> Diagnosis:
    """Ranks, over-smoothing, anisotropy, outlier dimensions, codes, experts and output; see `diagnosis.MEANINGS`.

    Samples are read, cropped and hidden as in the first epoch of training. Also written to
    `RUN/diagnosis[-DATA][-untrained].json`.

    Args:
        run: a run of pretraining, a fitted task, an export or another library's folder. Hidden tokens, codes and
            output are figures of a masked prediction run alone; all others have those of complete rows.
        data: a data set; None: the run's own sources.
        streams: to look at, in one sequence; by default all of the run's that `data` has. For `data` only.
        split: of the data set; by default validation, test or train, the first that there is.
        samples: of each data set, at most.
        step: of the checkpoint; the newest by default.
        untrained: look at the weights that the run began with, for comparison.
        device: to compute on; an accelerator if there is one by default.

    Raises:
        CheckpointError: no run folder, or no checkpoint.
        DataError: data or streams that don't fit, or no data for a model of another library.
    """
    run = Path(run)
    subject = subject_of(run, step, untrained=untrained)
    opened = _opened(subject, None if data is None else Path(data), streams, split)
    chosen = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    subject.backbone.to(chosen)
    if subject.objective is not None:
        subject.objective.to(chosen)
    reading = Reading(opened, samples, subject.recipe.training.seed, torch.device(chosen))
    progress = (subject.step or 0) / subject.recipe.training.steps
    found = collect(subject.backbone, subject.objective, reading.batches(), progress)
    hiding = subject.objective
    made = tuple(_stream(name, own, hiding and hiding.part(name)) for name, own in found.streams.items())
    result = Diagnosis(
        run=str(run),
        step=None if untrained else subject.step or 0,
        samples=reading.counts,
        splits={own.source.name: own.split for own in opened},
        streams=made,
        experts=_experts(found, list(subject.modalities)),
        notes=tuple(reading.notes),
        hidden=subject.objective is not None,
    )
    result.write(run, "" if data is None else Path(data).resolve().name)
    return result


# ---- samples


class Opened(NamedTuple):
    """A source and the split that it is of."""

    source: Source
    split: str


def _opened(subject: Subject, data: Path | None, streams: Sequence[str] | None, split: str | None) -> list[Opened]:
    recipe, modalities = subject.recipe, subject.modalities
    if data is None:
        if recipe.data.sources.keys() == {ELSEWHERE}:
            raise DataError("a model of another library has no data of its own to look at; name a data set")
        return [_open(subject, *own, split) for own in recipe.data.sources.items()]
    manifest = load_manifest(data)
    used = tuple(streams or (name for name in modalities if name in manifest.fields))
    if not used:
        theirs, ours = ", ".join(manifest.fields), ", ".join(modalities)
        raise DataError(f"{manifest.folder}: has the fields {theirs}, and none of the run's streams {ours}")
    check_fields("the run", modalities, manifest, used)
    return [_open(subject, data.resolve().name, SourceSettings(shards=data, streams=used), split)]


def _open(subject: Subject, name: str, settings: SourceSettings, split: str | None) -> Opened:
    """One sample a row, every half with its own other half; raises DataError where no split has any."""
    problem = DataError(f"{settings.shards}: no split")
    for own in (split,) if split else SPLITS:
        plain = dataclasses.replace(settings, split=own, layout=component(Layout, "samples"), negatives=None)
        number = list(subject.recipe.data.sources).index(name) if name in subject.recipe.data.sources else 0
        try:
            return Opened(Source(name, number, plain, subject.modalities, subject.recipe.training.seed), own)
        except DataError as error:
            problem = error
    raise problem


class Reading:
    """Batches of all sources, and what was read."""

    def __init__(self, opened: Sequence[Opened], samples: int, seed: int, device: torch.device) -> None:
        if samples < 2:
            raise DataError(f"samples: expected at least 2, got {samples}")
        self.opened, self.samples, self.seed, self.device = opened, samples, seed, device
        self.counts: dict[str, int] = {}
        self.notes: list[str] = []

    def batches(self) -> Iterator[Batch]:
        """Bins of the first epoch, in its order."""
        for source, _ in self.opened:
            skipped, total = [], min(self.samples, source.plan.num_bins)
            for start in range(0, total, ROWS):
                rows = source.rows(list(range(start, min(start + ROWS, total))))
                skipped += rows.skips
                yield Batch(rows.streams, rows.uid, row_draw(self.seed, rows.epoch, rows.uid), source.name, 0).to(
                    self.device
                )
            self.counts[source.name] = total - len(skipped)
            if skipped:
                self.notes.append(f"{len(skipped)} unreadable samples were left out, the first: {skipped[0].reason}")
            source.reader.close()


# ---- figures


def _stream(name: str, seen: StreamSeen, part: StreamObjective | None) -> StreamDiagnosis:
    depth = max(layer for _, layer in seen.moments)
    last = seen.of("complete", depth)
    drops = part is not None and part.corruption.drops
    which = "complete" if part is None else "real" if drops else "masked"
    blocks = tuple(_block(seen, layer, depth, which) for layer in range(1, depth + 1))
    found = [
        Outlier(int(dim), z, times, last.with_place(int(dim)))
        for dim, z in blocks[-1].outliers.items()
        if 2 * (times := sum(dim in block.outliers for block in blocks)) >= depth
    ]
    without = None
    if found:
        rest = last.kept.clone()
        rest[:, [own.dimension for own in found]] = 0
        without = mean_cosine(rest)
    return StreamDiagnosis(
        stream=name,
        width=len(last.total),
        tokens={group: seen.of(group, depth).count for group in GROUPS},
        dropped=drops,
        blocks=blocks,
        outliers=tuple(found),
        anisotropy_without=without,
        codes=tuple(_codes(own) for own in seen.codes),
        output=_output(seen, part) if part else None,
    )


def _block(seen: StreamSeen, layer: int, depth: int, which: str) -> BlockDiagnosis:
    """`which` tokens a linear map is looked for on."""
    own = {group: seen.of(group, layer) for group in GROUPS}
    values = {group: moments.values if moments.count else None for group, moments in own.items()}
    total, rows = seen.alike[layer]
    shortcut = linear_shortcut(own[which].kept, seen.of(which, depth).kept)
    return BlockDiagnosis(
        block=layer,
        effective_rank={group: None if v is None else effective_rank(v) for group, v in values.items()},
        directions={group: None if v is None else energy_rank(v) for group, v in values.items()},
        masked_outside=own["masked"].outside(own["real"]),
        alike=total / rows if rows else None,
        anisotropy=own["complete"].anisotropy,
        outliers={str(dim): z for dim, z in outlier_dimensions(own["complete"].mean).items()},
        shortcut=None if shortcut is None else shortcut[0],
        identity=None if shortcut is None else shortcut[1],
    )


def _codes(own: Codes) -> CodesDiagnosis:
    return CodesDiagnosis(
        codes=len(own.true),
        tokens=int(own.true.sum()),
        dead=int((own.true == 0).sum()),
        never_predicted=int((own.predicted == 0).sum()),
        perplexity=_effective_number(own.true),
        predicted_perplexity=_effective_number(own.predicted),
    )


def _effective_number(counts: Int[Tensor, " V"] | Float[Tensor, " V"]) -> float:
    """Exponential of the entropy: how many there would be if all were used alike."""
    return effective_rank(counts.double())


def _output(seen: StreamSeen, part: StreamObjective) -> OutputDiagnosis | None:
    matrix = output_matrix(part) if seen.logits else None
    if matrix is None:
        return None
    values, logits = singular_values(matrix.float().cpu()), torch.cat(seen.logits)
    rank, width = effective_rank(values), matrix.shape[1]
    return OutputDiagnosis(
        classes=matrix.shape[0],
        width=width,
        evenness=math.log(max(rank, 1.0)) / math.log(max(min(matrix.shape), 2)),
        effective_rank=rank,
        logit_rank=numeric_rank(logits),
        tokens=len(logits),
    )


def _experts(found: Collected, names: Sequence[str]) -> tuple[ExpertsDiagnosis, ...]:
    made = []
    for block, chosen in sorted(found.loads.items()):
        every = chosen.sum(0)
        loads = _fair(every)
        made.append(
            ExpertsDiagnosis(
                block=block,
                loads=loads,
                by_stream={name: _fair(own) for name, own in zip(names, chosen.unbind(), strict=True) if own.sum() > 0},
                dead=tuple(number for number, load in enumerate(loads) if load < DEAD),
                effective=_effective_number(every),
            )
        )
    return tuple(made)


def _fair(chosen: Float[Tensor, " E"]) -> tuple[float, ...]:
    return tuple((chosen / chosen.mean().clamp(min=1e-300)).tolist())
