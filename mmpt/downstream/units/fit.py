"""`mmpt units fit`: frames of a data set -> k-means centroids, in memory that does not grow with the data."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from rich.console import Console
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits

from mmpt.data.codebook import Codebook
from mmpt.data.manifest import load_manifest
from mmpt.downstream.units.corpus import Frames, rows_with
from mmpt.downstream.units.features import FrameFeatures
from mmpt.errors import DataError

BATCH = 10_000  # frames of a k-means step, as HuBERT has it
FIRST = 5  # batches that the first centroids are chosen from
STARTS = 20  # of k-means++, the best of which is kept


def fit_codebook(
    features: FrameFeatures,
    data: str | Path,
    *,
    clusters: int,
    split: str = "train",
    share: float = 1.0,
    passes: int = 5,
    seed: int = 0,
    workers: int = 0,
    console: Console | None = None,
) -> Codebook:
    """Mini-batch k-means (Sculley 2010) with HuBERT's settings (Hsu et al. 2021): k-means++, 20 starts, 10,000 frames.

    The same call gives the same codebook, whatever the number of workers. The starts see the first 50,000 frames of a
    random order of samples.

    Args:
        features: what is clustered.
        data: a data set.
        clusters: V.
        split: of the data set.
        share: of its samples, drawn by `seed`; HuBERT takes 0.1 for latent features.
        passes: over the samples.
        seed: of order, share and starts.
        workers: processes that compute features; 0: this one.
        console: shows progress; None is quiet.

    Raises:
        DataError: fewer frames than clusters, samples that can't be read, settings out of range.
    """
    if not 0 < share <= 1:
        raise DataError(f"share: expected above 0 and at most 1, got {share}")
    manifest = load_manifest(data)
    rows = in_random_order(rows_with(manifest, features.stream, split), seed)
    rows = rows[: max(1, round(share * len(rows)))]
    frames = Frames(features, manifest, rows, workers=workers, console=console)
    try:
        centroids = k_means(lambda: (own for _, own in frames), clusters=clusters, passes=passes, seed=seed)
    except DataError as error:
        raise DataError(f"{data}: {error}") from error
    return Codebook(centroids, features.rate, features.stream, features.settings)


def in_random_order(rows: Sequence[int], seed: int) -> list[int]:
    """The order that k-means sees samples in."""
    return np.random.default_rng(seed).permutation(np.array(rows)).tolist()


def k_means(
    frames: Callable[[], Iterable[Float[np.ndarray, "_ P"]]], *, clusters: int, passes: int = 5, seed: int = 0
) -> Float[np.ndarray, "V P"]:
    """Centroids; `frames` begins a pass over the samples. Raises DataError for fewer frames than clusters."""
    if clusters < 2 or passes < 1:
        raise DataError(f"expected clusters >= 2 and passes >= 1, got {clusters} and {passes}")
    size = max(BATCH, clusters)
    batches = _batches(frames(), size)
    first = list(islice(batches, FIRST))
    known = np.concatenate(first)
    if len(known) < clusters:
        raise DataError(f"{len(known)} frames for {clusters} clusters; ask for fewer, or give more samples")
    with threadpool_limits(1), warnings.catch_warnings():  # one thread: sums in one order, whatever the machine
        warnings.simplefilter("ignore")
        start = KMeans(clusters, n_init=cast("Any", STARTS), max_iter=1, random_state=seed).fit(known)
        means: Any = MiniBatchKMeans(clusters, init=start.cluster_centers_, reassignment_ratio=0.0)
        again = (batch for _ in range(passes - 1) for batch in _batches(frames(), size))
        for batch in chain(first, batches, again):
            means.partial_fit(batch)
    return means.cluster_centers_.astype(np.float32)


def _batches(frames: Iterable[Float[np.ndarray, "_ P"]], size: int) -> Iterator[Float[np.ndarray, "_ P"]]:
    kept: list[np.ndarray] = []
    count = 0
    for own in frames:
        kept.append(own)
        count += len(own)
        if count >= size:
            yield np.concatenate(kept)
            kept, count = [], 0
    if kept:
        yield np.concatenate(kept)
