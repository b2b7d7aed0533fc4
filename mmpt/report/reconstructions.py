"""What the model makes of what is hidden: held-out samples, masked as in training, predicted, and put back in place."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mmpt import randomness
from mmpt.config import component
from mmpt.data.layouts import Layout
from mmpt.data.source import UID_SHIFT, Source, SourceSettings, row_draw
from mmpt.encoders.image import Image, normalise
from mmpt.encoders.text import Text
from mmpt.errors import DataError
from mmpt.objectives import Prediction
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.targets.pixels import PixelsTarget
from mmpt.objectives.targets.token_ids import TokenIdsTarget
from mmpt.report.figures import picture_sheet
from mmpt.report.pretrained import Pretrained, load_pretrained
from mmpt.tokens import Batch, Content

PICTURES, PASSAGES, GUESSES = 8, 6, 5  # on a page: pictures and passages over all sources, guesses a hidden token
SPLITS = ("validation", "test", "train")  # the first that there is
READABLE = range(16, 97)  # tokens of a passage that one likes to look at
GREY = 128


class Triple(NamedTuple):
    """A picture three times over."""

    original: UInt8[np.ndarray, "H W 3"]
    masked: UInt8[np.ndarray, "H W 3"]  # hidden patches grey
    predicted: UInt8[np.ndarray, "H W 3"]  # hidden patches predicted, the others as they are


class Guess(NamedTuple):
    """One of the likeliest tokens for a hidden place."""

    id: int
    text: str
    probability: float


class Word(NamedTuple):
    """One token of a passage, with the guesses where it was hidden."""

    id: int
    text: str
    hidden: bool
    guesses: tuple[Guess, ...] = ()


class Sample(NamedTuple):
    """One sample's streams, by name."""

    key: str
    pictures: dict[str, Triple]
    passages: dict[str, list[Word]]


class SourceSamples(NamedTuple):
    """What was taken of one source."""

    source: str
    split: str
    samples: list[Sample]


def reconstruct(pretrained: Pretrained) -> Iterator[SourceSamples]:
    """A few samples of every source, reconstructed; raises DataError where shards are gone or are other ones."""
    recipe, objective = pretrained.recipe, pretrained.model.objective
    if not isinstance(objective, MaskedPrediction):
        raise DataError(f"objective '{recipe.objective.name}' has no reconstructions to show")
    for number, (name, settings) in enumerate(recipe.data.sources.items()):
        source, split = _held_out(pretrained, name, number, settings)
        try:
            keys, batch = _read(source, _rows_to_show(pretrained, settings), recipe.training.seed)
        finally:
            source.reader.close()
        yield SourceSamples(name, split, _predicted(pretrained, objective, keys, batch))


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
        fingerprints = json.loads((pretrained.run / "data.json").read_text(encoding="utf-8"))
        if fingerprints.get(name) != source.fingerprint:
            raise DataError(f"{settings.shards}: these are not the shards that the run was trained on")
        return source, split
    raise problem


def _rows_to_show(pretrained: Pretrained, settings: SourceSettings) -> int:
    """So many that all sources together give PICTURES and PASSAGES."""
    wanted = 1
    for kind, total in ((Image, PICTURES), (Text, PASSAGES)):
        of_kind = {name for name, modality in pretrained.modalities.items() if isinstance(modality, kind)}
        sharing = sum(bool(of_kind & set(s.streams)) for s in pretrained.recipe.data.sources.values())
        if of_kind & set(settings.streams):
            wanted = max(wanted, total // sharing)
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
def _predicted(pretrained: Pretrained, objective: MaskedPrediction, keys: list[str], batch: Batch) -> list[Sample]:
    hidden = objective.hide(batch, (pretrained.step or 0) / pretrained.recipe.training.steps)
    predictions = objective.predict(pretrained.model.backbone, batch, hidden)
    samples = [Sample(key, {}, {}) for key in keys]
    for name, prediction in predictions.items():
        modality, target = pretrained.modalities[name], objective.streams[name].target
        content = batch.streams[name]
        for row, sample in enumerate(samples):
            if not content.valid[row].any():
                continue
            if isinstance(modality, Image) and isinstance(target, PixelsTarget):
                sample.pictures[name] = _triple(modality, target, content, prediction, row)
            if isinstance(modality, Text) and isinstance(target, TokenIdsTarget):
                sample.passages[name] = _passage(modality, content, prediction, row)
    return samples


def _triple(image: Image, target: PixelsTarget, content: Content, prediction: Prediction, row: int) -> Triple:
    patches, own = content.values[row, 1:], prediction.row == row  # without the class token
    places = prediction.places[own] - 1
    masked = torch.where(prediction.hidden[row, 1:, None], torch.full_like(patches, GREY), patches)
    predicted = masked.clone()
    predicted[places] = to_pixels(target, prediction.prediction[own].float(), patches[places])
    return Triple(*(assemble(image, part) for part in (patches, masked, predicted)))


def to_pixels(
    target: PixelsTarget, prediction: Float[Tensor, "M P"], patches: UInt8[Tensor, "M P"]
) -> UInt8[Tensor, "M P"]:
    """What the target made of pixels, undone; patches that were standardised get their true mean and deviation back."""
    if target.normalize:
        variance, mean = torch.var_mean(normalise(patches, target.mean, target.std), dim=-1, keepdim=True)
        prediction = prediction * (variance + 1e-6).sqrt() + mean
    pixels = prediction.unflatten(-1, (-1, 3)) * target.std + target.mean
    return (pixels.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).flatten(-2)


def assemble(image: Image, patches: UInt8[Tensor, "N P"]) -> UInt8[np.ndarray, "H W 3"]:
    """Patches -> picture."""
    grid = patches.numpy().reshape(image.side, image.side, image.patch, image.patch, 3)
    return np.ascontiguousarray(grid.transpose(0, 2, 1, 3, 4).reshape(image.size, image.size, 3))


def _passage(text: Text, content: Content, prediction: Prediction, row: int) -> list[Word]:
    own = prediction.row == row
    best = _best(text, prediction.prediction[own])
    guesses = dict(zip(prediction.places[own].tolist(), best, strict=True))
    return [
        Word(number, spelled(text, number), bool(prediction.hidden[row, place]), guesses.get(place, ()))
        for place, number in enumerate(content.values[row].tolist())
        if content.observed[row, place]
    ]


def _best(text: Text, logits: Float[Tensor, "M V"]) -> list[tuple[Guess, ...]]:
    top = logits.float().softmax(-1).topk(min(GUESSES, logits.shape[-1]), dim=-1)
    rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [tuple(Guess(n, spelled(text, n), p) for n, p in zip(*row, strict=True)) for row in rows]


def spelled(text: Text, number: int) -> str:
    """A token as it stands in running text, with the space before it where it begins a word."""
    before = text.special("bos")
    pair, alone = (text.tokenizer.decode(ids, skip_special_tokens=False) for ids in ([before, number], [before]))
    return pair.removeprefix(alone)


def reconstruction_figure(run: Path, *, count: int = PICTURES) -> bytes:
    """Pictures of the run above what is shown of them above what is predicted; PNG. Raises DataError without any."""
    pretrained = load_pretrained(run)
    taken = [sample for part in reconstruct(pretrained) for sample in part.samples]
    triples = [triple for sample in taken for triple in sample.pictures.values()][:count]
    if not triples:
        raise DataError(f"{run}: the recipe has no stream of images that predicts pixels")
    return picture_sheet({name: [getattr(triple, name) for triple in triples] for name in Triple._fields})
