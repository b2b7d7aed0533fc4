"""`mmpt retrieve --shares`: what a linear map between two streams' frozen features finds, from a share of the pairs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits

from mmpt.data.manifest import load_manifest
from mmpt.downstream.classify import Bootstrap
from mmpt.downstream.described import tracked
from mmpt.downstream.encoder import load
from mmpt.downstream.few_labels import FEW_FOLDS, check_shares, over_draws
from mmpt.downstream.fields import check_fields
from mmpt.downstream.linear_map import choose_strength, ridge, unit
from mmpt.downstream.pair_features import Pairs, pair_features
from mmpt.downstream.result import CURVE_CAPTION, PAIR_CAPTION, Curve, Interval, SharePoint, point_text
from mmpt.downstream.retrieval import RANKS, chance, first_ranks, items_of, right_answers
from mmpt.errors import DataError


@dataclass(frozen=True)
class Way:
    """From one stream to the other; recall is by k.

    Args:
        name: `image -> text`. queries, among: how many ask, and among how many.
        chance: of halves in random order. direct: recall by cosine of the features themselves, without any map.
        recall: curves over shares of the training pairs.
    """

    name: str
    queries: int
    among: int
    chance: Mapping[str, float]
    direct: Mapping[str, Interval]
    recall: Mapping[str, tuple[Curve, ...]]


@dataclass(frozen=True)
class PairCurves:
    """What the maps found; `pairs` is how many there are by purpose."""

    run: str
    step: int | None
    data: str
    streams: tuple[str, str]
    pairs: Mapping[str, int]
    ways: tuple[Way, ...]
    notes: tuple[str, ...]
    seed: int

    def tables(self) -> list[Table]:
        """For a terminal, one for each way."""
        made = []
        for way in self.ways:
            first = next(iter(way.recall.values()))[0]
            sizes = [f"{point.share:g} ({point.samples})" for point in first.points]
            title = f"{way.name}, {way.queries} among {way.among}: by share of the training pairs (and their number)"
            table = Table("features", "", "chance", "no map", *sizes, title=Text(title))
            for at, curves in way.recall.items():
                for curve in curves:
                    direct = str(way.direct[at]) if curve.name == "pretrained" else "-"
                    cells = [curve.name, f"R@{at}", f"{way.chance[at]:.3f}", direct, *map(point_text, curve.points)]
                    table.add_row(*(Text(cell) for cell in cells))
            table.caption = Text("\n".join([PAIR_CAPTION, CURVE_CAPTION, *self.notes]), justify="left")
            made.append(table)
        return made

    def write(self, run: Path) -> Path:
        """Put it into the run folder, where the report looks for it."""
        name = "-".join([Path(self.data).resolve().name, *self.streams])
        file = run / f"retrieve-{re.sub(r'[^a-zA-Z0-9_.-]+', '_', name)}.json"
        staged = file.with_name(f".{file.name}.staged")
        staged.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        staged.replace(file)
        return file


def few_pairs(
    run: str | Path,
    data: str | Path,
    streams: tuple[str, str],
    *,
    shares: Sequence[float | int],
    draws: int = 5,
    splits: tuple[str, str] = ("train", "test"),
    step: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> PairCurves:
    """Recall at 1, 5 and 10 through a map fitted on a share of the training pairs, both ways, beside baselines.

    Features are the mean and standard deviation over a half's tokens, each half encoded by itself, and of classical
    baselines their own; both sides are standardised on the drawn pairs. The map's strength is chosen inside them, by
    mean reciprocal rank over groups. Texts that are the same are one text, as in `retrieve`.

    Args:
        run: with both streams.
        data: a data set of pairs.
        streams: the two.
        shares: of the training pairs.
        draws: of each share.
        splits: to fit on, and to search in; 20,000 and 2,000 pairs at most, drawn by `seed`.
        step: of the checkpoint; the newest by default.
        seed: of draws and bootstrap.
        console: shows progress; None is quiet.

    Raises:
        DataError: streams that don't fit, too few pairs, or too many unreadable ones.
    """
    wanted = check_shares(shares, draws)
    manifest, encoders = (
        load_manifest(data),
        {"pretrained": load(run, step=step), "untrained": load(run, untrained=True)},
    )
    check_fields(Path(run), encoders["pretrained"].modalities, manifest, streams)
    pairs = pair_features(encoders, manifest, streams, splits, seed, console)
    sizes = {name: len(pairs.rows(name)) for name in ("train", "test")}
    kept = [share for share in wanted if round(share * sizes["train"]) >= 2]
    notes = [
        f"share {share:g} of {sizes['train']} pairs is less than two: no map" for share in wanted if share not in kept
    ]
    if not kept:
        raise DataError(f"{manifest.folder}: {'; '.join(notes)}; use larger shares")
    with threadpool_limits(limits=1):
        ways = tuple(
            _way(pairs, one, other, kept, draws, seed, console) for one, other in (streams, (streams[1], streams[0]))
        )
    found = PairCurves(
        str(run), encoders["pretrained"].step, str(data), streams, sizes, ways, (*notes, *pairs.notes), seed
    )
    found.write(Path(run))
    return found


def _way(
    pairs: Pairs, ask: str, answer: str, shares: Sequence[float], draws: int, seed: int, console: Console | None
) -> Way:
    asked, answers = items_of(pairs.values[ask]), items_of(pairs.values[answer])
    right = right_answers(asked, answers)
    queries, among = right.shape
    bootstrap = Bootstrap(np.ones(queries, dtype=np.int64), np.arange(queries), seed)
    firsts, others = np.array([min(one) for one in asked]), np.array([min(one) for one in answers])
    direct = first_ranks(pairs.direct[ask][firsts] @ pairs.direct[answer][others].T, right)
    points: dict[int, dict[str, list[SharePoint]]] = {k: {kind: [] for kind in pairs.features} for k in RANKS}
    test = pairs.rows("test")
    for share in tracked(list(shares), f"{ask} -> {answer}", console):
        drawn = _drawn(pairs.rows("train"), share, draws, seed)
        tables: dict[str, np.ndarray] = {}
        for kind, own in pairs.features.items():
            ranks = [
                _ranks(own[ask], own[answer], rows, pairs.groups, test[firsts], test[others], right) for rows in drawn
            ]
            tables[kind] = np.stack(ranks)
        for k in RANKS:
            scored = {kind: np.stack([_recall(bootstrap, r, k) for r in own]) for kind, own in tables.items()}
            for kind, own in scored.items():
                gain = over_draws(own, scored["untrained"], seed) if kind == "pretrained" else None
                mean, spread = over_draws(own, None, seed), float(own[:, 0].std())
                points[k][kind].append(SharePoint(share, len(drawn[0]), len(drawn), mean, spread, gain))
    return Way(
        name=f"{ask} -> {answer}",
        queries=queries,
        among=among,
        chance={str(k): chance(right.sum(1), among, k) for k in RANKS},
        direct={str(k): bootstrap.interval((direct <= k).astype(np.int64), "accuracy") for k in RANKS},
        recall={str(k): tuple(Curve(kind, tuple(p)) for kind, p in own.items()) for k, own in points.items()},
    )


def _recall(bootstrap: Bootstrap, ranks: np.ndarray, k: int) -> np.ndarray:
    return bootstrap.scores((ranks <= k).astype(np.int64), "accuracy")


def _drawn(train: np.ndarray, share: float, draws: int, seed: int) -> list[np.ndarray]:
    """Pairs of each draw; all of them once where the share is 1."""
    if share == 1:
        return [train]
    size = round(share * len(train))
    lots = [np.random.default_rng([seed, number, round(share * 1e9)]) for number in range(draws)]
    return [np.sort(random.choice(train, size, replace=False)) for random in lots]


def _ranks(
    ask: Float[np.ndarray, "n _a"],
    answer: Float[np.ndarray, "n _b"],
    rows: np.ndarray,
    groups: np.ndarray,
    queries: np.ndarray,
    among: np.ndarray,
    right: Bool[np.ndarray, "q m"],
) -> np.ndarray:
    """Rank of the best right answer to each query."""
    strength = choose_strength(ask[rows], answer[rows], groups[rows], FEW_FOLDS)
    predict, scale = ridge(ask[rows], answer[rows], strength)
    return first_ranks(unit(predict(ask[queries])) @ unit(scale(answer[among])).T, right)
