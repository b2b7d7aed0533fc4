"""`mmpt retrieve` and `mmpt zeroshot`: finding one half of a pair by the other, and classes by what they are called."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from rich.table import Table
from rich.text import Text
from torch import nn
from torch.nn.functional import normalize

from mmpt.build import pool_of
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.downstream.classify import SCORES, Bootstrap
from mmpt.downstream.encoder import Encoder, load
from mmpt.downstream.fields import check_fields
from mmpt.downstream.labelled import find_labelled
from mmpt.downstream.pretrained import load_pretrained
from mmpt.downstream.result import SCORE_NAMES, Interval
from mmpt.errors import DataError
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.pairs import mean_of
from mmpt.objectives.pairs.sigmoid_contrast import SigmoidContrast
from mmpt.pools.mean import MeanPool

RANKS = (1, 5, 10)
CHUNK = 256  # samples encoded at once

Describe = Callable[[str, Sequence[Any]], Float[np.ndarray, "n D"]]


class Direction(NamedTuple):
    """How often one of the right halves is among the first k."""

    name: str
    queries: int
    among: int
    recall: dict[int, Interval]
    chance: dict[int, float]  # of halves in random order


class Retrieval(NamedTuple):
    """Both ways, and what was compared."""

    features: str
    directions: tuple[Direction, ...]

    def table(self) -> Table:
        """For a terminal."""
        table = Table("from -> to", "queries", "among", *(f"R@{k} (chance)" for k in RANKS), title=Text(self.features))
        for own in self.directions:
            cells = [f"{own.recall[k]} ({own.chance[k]:.3f})" for k in RANKS]
            table.add_row(own.name, str(own.queries), str(own.among), *(Text(cell) for cell in cells))
        table.caption = Text(
            "a text is asked for, and asks, once, whichever samples share it; 95 % by resampling queries"
        )
        return table


def retrieve(
    run: str | Path,
    data: str | Path,
    streams: tuple[str, str],
    *,
    split: str = "test",
    step: int | None = None,
    seed: int = 0,
) -> Retrieval:
    """Recall of the second stream's halves by the first one's, and the other way round, over a whole split.

    Features are those of the run's sigmoid contrast of the two streams; where it has none the vectors that it was
    trained for, as `encode(pool="own")` gives them, or else the mean latents. Each half is encoded by itself. Texts
    that are the same are one text: any of its samples is right.

    Args:
        run: with both streams.
        data: a data set of pairs.
        streams: the two.
        split: to look in.
        step: of the checkpoint; the newest by default.
        seed: of the bootstrap.

    Raises:
        DataError: streams that don't fit, or fewer than two pairs.
    """
    one, other = streams
    manifest, encoder = load_manifest(data), load(run, step=step)
    check_fields(Path(run), encoder.modalities, manifest, streams)
    describe, features = features_of(encoder, streams)
    rows = manifest.split_rows(split)
    rows = rows[(manifest.column(f"{one}.offset")[rows] >= 0) & (manifest.column(f"{other}.offset")[rows] >= 0)]
    if len(rows) < 2:
        raise DataError(f"{manifest.folder}: split '{split}' has {len(rows)} pairs of {one} and {other}; 2 at least")
    reader = Reader(manifest, list(streams))
    samples = [reader.read(int(row)) for row in rows]
    reader.close()
    sides = {name: _side(name, [sample[name] for sample in samples], describe) for name in streams}
    found = tuple(_direction(f"{a} -> {b}", sides[a], sides[b], seed) for a, b in ((one, other), (other, one)))
    return Retrieval(features, found)


class _Side(NamedTuple):
    features: Float[np.ndarray, "n D"]
    pairs: list[set[int]]  # the pairs that each item stands in


def _side(name: str, values: list[Any], describe: Describe) -> _Side:
    items = items_of(values)
    return _Side(describe(name, [values[min(pairs)] for pairs in items]), items)


def items_of(values: Sequence[Any]) -> list[set[int]]:
    """The pairs that each item of one stream stands in: a text that several pairs share is one item."""
    items: dict[Any, set[int]] = {}
    for pair, value in enumerate(values):
        items.setdefault(value if isinstance(value, str) else pair, set()).add(pair)
    return list(items.values())


def _direction(name: str, ask: _Side, answer: _Side, seed: int) -> Direction:
    right = right_answers(ask.pairs, answer.pairs)
    first = first_ranks(ask.features @ answer.features.T, right)
    queries, among = right.shape
    bootstrap = Bootstrap(np.ones(queries, dtype=np.int64), np.arange(queries), seed)
    recall = {k: bootstrap.interval((first <= k).astype(np.int64), "accuracy") for k in RANKS}
    return Direction(name, queries, among, recall, {k: chance(right.sum(1), among, k) for k in RANKS})


def right_answers(ask: Sequence[set[int]], answer: Sequence[set[int]]) -> Bool[np.ndarray, "q n"]:
    """Which items of the other stream share a pair with each item that asks."""
    of_pair = {pair: item for item, pairs in enumerate(answer) for pair in pairs}
    right = np.zeros((len(ask), len(answer)), dtype=bool)
    for item, pairs in enumerate(ask):
        right[item, [of_pair[pair] for pair in pairs]] = True
    return right


def first_ranks(similarity: Float[np.ndarray, "q n"], right: Bool[np.ndarray, "q n"]) -> Int[np.ndarray, " q"]:
    """Rank, from 1, of the best right item; whatever is wrong and as similar comes before it."""
    best = np.where(right, similarity, -np.inf).max(1, keepdims=True)
    return 1 + ((similarity >= best) & ~right).sum(1)


def chance(right: Int[np.ndarray, " q"], among: int, k: int) -> float:
    """Expected recall at k of a random order."""
    missed = [math.comb(among - int(count), min(k, among)) / math.comb(among, min(k, among)) for count in right]
    return 1 - float(np.mean(missed))


def features_of(encoder: Encoder, streams: tuple[str, str]) -> tuple[Describe, str]:
    """What gives the features of a stream's values, each encoded by itself, and what they are."""
    objective = load_pretrained(cast("Path", encoder.run), step=encoder.step).model.objective
    contrast = _contrast(objective, streams)
    if contrast is not None:
        return _contrasted(encoder, contrast), f"{encoder.run}, features of the run's contrast"
    part = pool_of(encoder.recipe) if encoder.own is not None else None
    told = f"latents pooled by {part.name}" if part and part.target is not MeanPool else "mean latents"

    def describe(stream: str, values: Sequence[Any]) -> Float[np.ndarray, "n D"]:
        own = encoder.encode(({stream: value} for value in values), pool="own" if part else "mean")
        return normalize(own, dim=1).numpy()

    return describe, f"{encoder.run}, {told}"


def _contrasted(encoder: Encoder, contrast: SigmoidContrast) -> Describe:
    @torch.no_grad()
    def describe(stream: str, values: Sequence[Any]) -> Float[np.ndarray, "n D"]:
        parts = []
        for start in range(0, len(values), CHUNK):
            own = encoder.encode({stream: value} for value in values[start : start + CHUNK]).streams[stream]
            parts.append(contrast.features(mean_of(own.latents, own.valid), contrast.streams.index(stream)))
        every = torch.cat(parts)
        return (normalize(every, dim=1) if contrast.unit_vectors else every).numpy()

    return describe


def _contrast(objective: nn.Module, streams: tuple[str, str]) -> SigmoidContrast | None:
    if isinstance(objective, MaskedPrediction):
        for pair in objective.paired.losses().values():
            if isinstance(pair, SigmoidContrast) and set(pair.streams) == set(streams):
                return pair
    return None


class ZeroShot(NamedTuple):
    """Scores of classes told by their prompts."""

    features: str
    samples: int
    unlabelled: int  # samples, of all splits, that were left out for want of a label
    scores: dict[str, Interval]
    commonest: dict[str, Interval]

    def table(self) -> Table:
        """For a terminal."""
        table = Table("", *SCORE_NAMES.values(), title=Text(f"{self.features}, {self.samples} samples"))
        for name, scores in (("by prompts", self.scores), ("commonest class", self.commonest)):
            table.add_row(name, *(Text(str(scores[kind])) for kind in SCORES))
        if self.unlabelled:
            table.caption = Text(f"{self.unlabelled} samples without the label were left out")
        return table


def zero_shot(
    run: str | Path,
    data: str | Path,
    streams: tuple[str, str],
    *,
    label: str,
    prompts: Mapping[str, str | Sequence[str]],
    splits: tuple[str, str] = ("train", "test"),
    step: int | None = None,
    seed: int = 0,
) -> ZeroShot:
    """Every sample gets the class whose prompts are the most similar to it; nothing is fitted.

    Args:
        run: with both streams.
        data: with labels.
        streams: what is classified, and the stream of the prompts.
        label: the key of the labels.
        prompts: by class, a text or several, whose features are averaged.
        splits: where the commonest class is counted, and what is judged.
        step: of the checkpoint; the newest by default.
        seed: of the bootstrap.

    Raises:
        DataError: a class without prompt, a prompt without class, or what `mmpt probe` would refuse.
    """
    stream, text = streams
    manifest = load_manifest(data)
    encoder = load(run, step=step)
    check_fields(Path(run), encoder.modalities, manifest, [stream])
    if text not in encoder.modalities or encoder.modalities[text].kind != "text":
        raise DataError(f"streams: prompts are texts, and '{text}' is no text stream of {run}")
    labelled = find_labelled(manifest, label, [stream], splits, max_samples=None, skip_unlabelled=True, seed=seed)
    _check_prompts(prompts, labelled.classes, manifest, label)
    describe, features = features_of(encoder, streams)
    classes = []
    for name in labelled.classes:
        given = prompts[name]
        mean = describe(text, [given] if isinstance(given, str) else list(given)).mean(0)
        classes.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
    test = labelled.indices("test")
    reader = Reader(manifest, [stream])
    values = [reader.read(int(row))[stream] for row in labelled.rows[test]]
    reader.close()
    guesses = (describe(stream, values) @ np.stack(classes).T).argmax(1)
    truth = labelled.labels[test]
    bootstrap = Bootstrap(truth, labelled.groups[test], seed)
    common = np.full(len(test), np.bincount(labelled.labels[labelled.indices("train")]).argmax())
    scores, commonest = ({kind: bootstrap.interval(said, kind) for kind in SCORES} for said in (guesses, common))
    return ZeroShot(features, len(test), labelled.unlabelled, scores, commonest)


def _check_prompts(prompts: Mapping[str, Any], classes: Sequence[str], manifest: Manifest, label: str) -> None:
    for name in classes:
        if name not in prompts:
            raise DataError(f"prompts: none for class '{name}' of {manifest.folder}, label '{label}'")
    for name, given in prompts.items():
        if name not in classes:
            raise DataError(f"prompts: label '{label}' has no class '{name}'; it has {', '.join(classes)}")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, Sequence) or not texts or not all(isinstance(one, str) and one for one in texts):
            raise DataError(f"prompts.{name}: expected a text or a list of texts, got {given!r}")
