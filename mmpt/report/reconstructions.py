"""What the model makes of what is hidden: held-out samples, masked as in training, predicted, and put back in place."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mmpt import randomness
from mmpt.config import component
from mmpt.data.layouts import Layout
from mmpt.data.source import UID_SHIFT, Source, SourceSettings, row_draw
from mmpt.downstream.pretrained import Pretrained, load_pretrained
from mmpt.errors import DataError
from mmpt.objectives import Prediction
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.report.figures import picture_sheet
from mmpt.report.views import View, view_of
from mmpt.report.views.image import ImageView, Triple
from mmpt.tokens import Batch

SPLITS = ("validation", "test", "train")  # the first that there is
READABLE = range(16, 97)  # tokens of a passage that one likes to look at


class Sample(NamedTuple):
    """What each view sees of one sample, by stream."""

    key: str
    seen: dict[str, Any]


class SourceSamples(NamedTuple):
    """What was taken of one source."""

    source: str
    split: str
    samples: list[Sample]


def views_of(pretrained: Pretrained) -> dict[str, View | str]:
    """How each stream is shown, or why it isn't."""
    objective = masked_prediction(pretrained)
    return {name: view_of(modality, objective.part(name).target) for name, modality in pretrained.modalities.items()}


def masked_prediction(pretrained: Pretrained) -> MaskedPrediction:
    """The run's objective; raises DataError for one that predicts nothing to look at."""
    objective = pretrained.model.objective
    if not isinstance(objective, MaskedPrediction):
        raise DataError(f"objective '{pretrained.recipe.objective.name}' has no reconstructions to show")
    return objective


def reconstruct(pretrained: Pretrained) -> Iterator[SourceSamples]:
    """A few samples of every source, reconstructed; raises DataError where shards are gone or are other ones."""
    recipe, views = pretrained.recipe, views_of(pretrained)
    for number, (name, settings) in enumerate(recipe.data.sources.items()):
        source, split = _held_out(pretrained, name, number, settings)
        try:
            keys, batch = _read(source, _rows_to_show(pretrained, views, settings), recipe.training.seed)
        finally:
            source.reader.close()
        predictions = predict(pretrained, batch, (pretrained.step or 0) / recipe.training.steps)
        seen = [look(views, batch, predictions, row) for row in range(len(keys))]
        yield SourceSamples(name, split, [Sample(*pair) for pair in zip(keys, seen, strict=True)])


def _held_out(pretrained: Pretrained, name: str, number: int, settings: SourceSettings) -> tuple[Source, str]:
    """A source of the first split that has something, one piece a row."""
    seed, problem = pretrained.recipe.training.seed, DataError(f"data.sources.{name}: no split")
    for split in SPLITS:
        plain = dataclasses.replace(settings, split=split, layout=component(Layout, "samples"))
        try:
            source = Source(name, number, plain, pretrained.modalities, seed)
        except DataError as error:
            problem = error
            continue
        if fingerprints(pretrained.run).get(name) != source.fingerprint:
            raise DataError(f"{settings.shards}: these are not the shards that the run was trained on")
        return source, split
    raise problem


def fingerprints(run: Path) -> dict[str, str]:
    """Of the data sets that a run was trained on, by source; raises DataError where the run does not say."""
    try:
        return json.loads((run / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{run / 'data.json'}: missing or unreadable ({error}), so its data is not known") from error


def _rows_to_show(pretrained: Pretrained, views: Mapping[str, View | str], settings: SourceSettings) -> int:
    """So many that all sources together give what each kind of view wants."""
    wanted = 1
    for kind in {type(view) for view in views.values() if isinstance(view, View)}:
        of_kind = {name for name, view in views.items() if isinstance(view, kind)}
        sharing = sum(bool(of_kind & set(s.streams)) for s in pretrained.recipe.data.sources.values())
        if of_kind & set(settings.streams):
            wanted = max(wanted, kind.samples // sharing)
    return wanted


def _read(source: Source, count: int, seed: int) -> tuple[list[str], Batch]:
    """Some readable samples without augmentation, each with the mask that its row has in the first epoch."""
    order = randomness.permutation(len(source.pieces.sample), seed, source.number, "report").numpy()
    awkward = [int(size) not in READABLE for size in source.pieces.tokens[order]]
    order = order[np.argsort(awkward, kind="stable")]
    rows: list[int] = []
    values: list[dict[str, np.ndarray]] = []
    for row in order.tolist():
        sample, start, stop = (int(column[row]) for column in source.pieces[:3])
        try:
            values.append(source.read_sample(sample, start, stop, None))
        except DataError:
            continue  # the ledger has it if training met it
        rows.append(row)
        if len(rows) == count:
            break
    if not rows:
        raise DataError(f"{source.reader.folder}: none of the {len(order)} samples of the split can be read")
    streams = {
        name: modality.collate([[own[name]] if name in own else [] for own in values], None)
        for name, modality in source.modalities.items()
    }
    uid = torch.tensor([source.number << UID_SHIFT | row for row in rows])
    draw = row_draw(seed, torch.zeros_like(uid), uid)
    keys = [str(source.reader.key[source.pieces.sample[row]]) for row in rows]
    return keys, Batch(streams, uid, draw, source.name, 0)


@torch.no_grad()
def predict(pretrained: Pretrained, batch: Batch, progress: float) -> dict[str, Prediction]:
    """What training would hide of these rows, predicted from the rest."""
    objective = masked_prediction(pretrained)
    return objective.predict(pretrained.model.backbone, batch, objective.hide(batch, progress))


@torch.no_grad()
def look(
    views: Mapping[str, View | str], batch: Batch, predictions: Mapping[str, Prediction], row: int
) -> dict[str, Any]:
    """What the views make of one row, by stream; streams that it lacks or that have no view are left out."""
    seen = {}
    for name, content in batch.streams.items():
        view = views[name]
        if isinstance(view, View) and content.valid[row].any():
            seen[name] = view.view(content, predictions[name], row)
    return seen


def reconstruction_figure(run: Path, *, count: int = ImageView.samples) -> bytes:
    """Pictures of the run above what is shown of them above what is predicted; PNG. Raises DataError without any."""
    pretrained = load_pretrained(run)
    taken = [sample for part in reconstruct(pretrained) for sample in part.samples]
    triples = [seen for sample in taken for seen in sample.seen.values() if isinstance(seen, Triple)][:count]
    if not triples:
        raise DataError(f"{run}: the recipe has no stream of images that predicts pixels")
    return picture_sheet({name: [getattr(triple, name) for triple in triples] for name in Triple._fields})
