"""Documents packed into full rows: best fit, longest first (Krell et al. 2021, arXiv 2107.02027)."""

import numpy as np

from mmpt import randomness
from mmpt.data.layouts import Layout, Pieces, Plan
from mmpt.errors import ConfigError


class PackLayout(Layout):
    """Rows of exactly `length` tokens; attention stays inside each document.

    Args:
        length: tokens of a row.
    """

    def __init__(self, *, length: int = 512) -> None:
        if length < 8:
            raise ConfigError(f"length: expected at least 8 tokens, got {length}")
        self.length = length

    def plan(self, pieces: Pieces, seed: int) -> Plan:
        """Deterministic; pieces of one length are shuffled, so that neighbours in the shards part."""
        longest = int(pieces.tokens.max(initial=0))
        if longest > self.length:
            raise ConfigError(
                f"length: rows of {self.length} tokens can't hold a document of {longest}; raise layout.length "
                f"or lower the stream's max_length to {self.length}"
            )
        shuffled = randomness.permutation(len(pieces.tokens), seed, "pack").numpy()
        longest_first = shuffled[np.argsort(-pieces.tokens[shuffled], kind="stable")]
        rows = _best_fit(pieces.tokens[longest_first].tolist(), self.length)
        order = longest_first[np.fromiter((i for row in rows for i in row), np.int64, len(shuffled))]
        starts = np.cumsum([0, *map(len, rows)])
        return Plan(order, starts, np.arange(len(rows) + 1), self.length)


def _best_fit(sizes: list[int], room: int) -> list[list[int]]:
    """Rows of indices into `sizes`, which fall; a bit set finds the fullest row that still fits in constant time."""
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(room + 1)]
    occupied = 0
    for index, size in enumerate(sizes):
        fitting = occupied >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            row = with_room[left].pop()
            if not with_room[left]:
                occupied &= ~(1 << left)
            rows[row].append(index)
        else:
            left, row = room, len(rows)
            rows.append([index])
        with_room[left - size].append(row)
        occupied |= 1 << (left - size)
    return rows
