"""`mmpt diagnose`: how a run's latents lie in their space, modality by modality, block by block."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmpt.build import build_model
from mmpt.config import component
from mmpt.data.layouts import Layout
from mmpt.data.manifest import load_manifest
from mmpt.data.source import Source, SourceSettings, row_draw
from mmpt.downstream.encoder import find_checkpoint
from mmpt.downstream.fields import check_fields
from mmpt.downstream.pretrained import Pretrained, load_pretrained
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
from mmpt.objectives.masked_prediction import MaskedPrediction, StreamObjective
from mmpt.tokens import Batch
from mmpt.training.run import load_recipe

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
        run: a run of masked prediction.
        data: a data set; None: the run's own sources.
        streams: to look at, in one sequence; by default all of the run's that `data` has. For `data` only.
        split: of the data set; by default validation, test or train, the first that there is.
        samples: of each data set, at most.
        step: of the checkpoint; the newest by default.
        untrained: look at the weights that the run began with, for comparison.
        device: to compute on; an accelerator if there is one by default.

    Raises:
        CheckpointError: no run folder, or no checkpoint.
        DataError: data or streams that don't fit, or an objective that hides nothing.
    """
    run = Path(run)
    load_recipe(run)
    if not untrained:
        find_checkpoint(run, step)
    pretrained = load_pretrained(run, step=step)
    if untrained:
        fresh = build_model(pretrained.recipe, pretrained.modalities).requires_grad_(False).eval()
        pretrained = pretrained._replace(model=fresh, step=None)
    objective = pretrained.model.objective
    if not isinstance(objective, MaskedPrediction):
        raise DataError(f"{run}: objective '{pretrained.recipe.objective.name}' hides nothing that could be looked at")
    opened = _opened(pretrained, None if data is None else Path(data), streams, split)
    chosen = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    pretrained.model.to(chosen)
    reading = Reading(opened, samples, pretrained.recipe.training.seed, torch.device(chosen))
    progress = (pretrained.step or 0) / pretrained.recipe.training.steps
    found = collect(pretrained.model.backbone, objective, reading.batches(), progress)
    made = tuple(_stream(name, own, objective.part(name)) for name, own in found.streams.items())
    result = Diagnosis(
        run=str(run),
        step=pretrained.step,
        samples=reading.counts,
        splits={own.source.name: own.split for own in opened},
        streams=made,
        experts=_experts(found, list(pretrained.modalities)),
        notes=tuple(reading.notes),
    )
    result.write(run, "" if data is None else Path(data).resolve().name)
    return result


# ---- samples


class Opened(NamedTuple):
    """A source and the split that it is of."""

    source: Source
    split: str


def _opened(
    pretrained: Pretrained, data: Path | None, streams: Sequence[str] | None, split: str | None
) -> list[Opened]:
    recipe, modalities = pretrained.recipe, pretrained.modalities
    if data is None:
        return [_open(pretrained, *own, split) for own in recipe.data.sources.items()]
    manifest = load_manifest(data)
    used = tuple(streams or (name for name in modalities if name in manifest.fields))
    if not used:
        theirs, ours = ", ".join(manifest.fields), ", ".join(modalities)
        raise DataError(f"{manifest.folder}: has the fields {theirs}, and none of the run's streams {ours}")
    check_fields("the run", modalities, manifest, used)
    return [_open(pretrained, data.resolve().name, SourceSettings(shards=data, streams=used), split)]


def _open(pretrained: Pretrained, name: str, settings: SourceSettings, split: str | None) -> Opened:
    """One sample a row, every half with its own other half; raises DataError where no split has any."""
    problem = DataError(f"{settings.shards}: no split")
    for own in (split,) if split else SPLITS:
        plain = dataclasses.replace(settings, split=own, layout=component(Layout, "samples"), negatives=None)
        number = list(pretrained.recipe.data.sources).index(name) if name in pretrained.recipe.data.sources else 0
        try:
            return Opened(Source(name, number, plain, pretrained.modalities, pretrained.recipe.training.seed), own)
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


def _stream(name: str, seen: StreamSeen, part: StreamObjective) -> StreamDiagnosis:
    depth = max(layer for _, layer in seen.moments)
    last = seen.moments["complete", depth]
    blocks = tuple(_block(seen, layer, depth, drops=part.corruption.drops) for layer in range(1, depth + 1))
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
        tokens={group: seen.moments[group, depth].count for group in GROUPS},
        dropped=part.corruption.drops,
        blocks=blocks,
        outliers=tuple(found),
        anisotropy_without=without,
        codes=tuple(_codes(own) for own in seen.codes),
        output=_output(seen, part),
    )


def _block(seen: StreamSeen, layer: int, depth: int, *, drops: bool) -> BlockDiagnosis:
    own = {group: seen.moments[group, layer] for group in GROUPS}
    values = {group: moments.values if moments.count else None for group, moments in own.items()}
    total, rows = seen.alike[layer]
    which = "real" if drops else "masked"
    shortcut = linear_shortcut(own[which].kept, seen.moments[which, depth].kept)
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
