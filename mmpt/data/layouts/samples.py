"""One piece a row, one row a bin."""

import numpy as np

from mmpt.data.layouts import Layout, Pieces, Plan


class SamplesLayout(Layout):
    """The plain layout: the batch size counts pieces, rows are padded to the longest of a micro-batch."""

    def plan(self, pieces: Pieces, seed: int) -> Plan:
        """In the manifest's order; the epoch's permutation shuffles bins."""
        numbers = np.arange(len(pieces.sample) + 1)
        return Plan(numbers[:-1], numbers, numbers, None)
