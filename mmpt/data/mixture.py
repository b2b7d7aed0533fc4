"""Which source each step draws: a fixed interleaving, exact in proportion and known for every step in advance."""

from collections.abc import Sequence

import numpy as np

from mmpt import randomness


def schedule(weights: Sequence[float], steps: int, seed: int) -> np.ndarray:
    """The number of the source of every step, int64 (steps).

    The k-th turn of a source of share w stands at time (k + u) / w with its own u drawn once, so after t steps a source
    has had t w turns, give or take one for each other source; the first t steps do not depend on how many follow.
    """
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    times, sources = [], []
    for source, share in enumerate(shares):
        turns = np.arange(int(np.ceil(steps * share)) + len(shares) + 1)
        phase = (randomness.key(seed, "mixture", source) % 2**32 + 0.5) / 2**32
        times.append((turns + phase) / share)
        sources.append(np.full(len(turns), source))
    order = np.argsort(np.concatenate(times), kind="stable")[:steps]
    return np.concatenate(sources)[order]


def turns_before(chosen: np.ndarray, count: int) -> np.ndarray:
    """For every step, how many earlier steps drew the same source, int64 (steps)."""
    before = np.zeros_like(chosen)
    for source in range(count):
        mine = chosen == source
        before[mine] = np.arange(mine.sum())
    return before
