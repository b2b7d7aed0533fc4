"""Rows of similar length in bins of at most so many padded tokens (length bucketing)."""

import numpy as np

from mmpt import randomness
from mmpt.data.layouts import Layout, Pieces, Plan
from mmpt.errors import ConfigError


class BudgetLayout(Layout):
    """The batch size counts bins; a bin has as many rows as its longest allows.

    Args:
        tokens: rows of a bin times its longest row.
    """

    def __init__(self, *, tokens: int = 8192) -> None:
        if tokens < 1:
            raise ConfigError(f"tokens: expected at least 1, got {tokens}")
        self.tokens = tokens

    def plan(self, pieces: Pieces, seed: int) -> Plan:
        """Longest first; pieces of one length are shuffled."""
        longest = int(pieces.tokens.max(initial=0))
        if longest > self.tokens:
            raise ConfigError(
                f"tokens: a bin of {self.tokens} can't hold a row of {longest}; raise it to {longest} or more"
            )
        shuffled = randomness.permutation(len(pieces.tokens), seed, "budget").numpy()
        order = shuffled[np.argsort(-pieces.tokens[shuffled], kind="stable")]
        starts = [0]
        while starts[-1] < len(order):
            rows = self.tokens // int(pieces.tokens[order[starts[-1]]])
            starts.append(min(starts[-1] + rows, len(order)))
        return Plan(order, np.arange(len(order) + 1), np.asarray(starts), None)
