"""Whether a lead was observed: short gaps are bridged; flat, clipped and broken leads are as good as missing."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

CONDITIONS = ("observed", "missing", "gaps", "flat", "clipped")
GAP_SECONDS = 0.1  # longest stretch without numbers that is bridged by a straight line
GAP_SHARE = 0.01  # of a lead's samples
CLIPPED_SHARE = 0.05  # of a lead's samples at its own least or greatest value ...
CLIPPED_RUN = 3  # ... so many or more in a row; a peak alone has one or two


class Examined(NamedTuple):
    """One lead.

    Args:
        samples: all finite where the condition is `observed`.
        condition: one of CONDITIONS.
    """

    samples: Float[np.ndarray, " T"]
    condition: str


def examine(lead: Float[np.ndarray, " T"], rate: float) -> Examined:
    """A lead with its short gaps bridged, and what is wrong with it."""
    finite = np.isfinite(lead)
    if not finite.all():
        if _runs(~finite).max() > GAP_SECONDS * rate or np.count_nonzero(~finite) > GAP_SHARE * len(lead):
            return Examined(lead, "gaps")
        lead = np.interp(np.arange(len(lead)), np.flatnonzero(finite), lead[finite])
    if lead.min() == lead.max():
        return Examined(lead, "flat")
    return Examined(lead, "clipped" if _is_clipped(lead) else "observed")


def _is_clipped(lead: Float[np.ndarray, " T"]) -> bool:
    runs = np.concatenate([_runs(lead == lead.min()), _runs(lead == lead.max())])
    return bool(runs[runs >= CLIPPED_RUN].sum() >= CLIPPED_SHARE * len(lead))


def _runs(true: Bool[np.ndarray, " T"]) -> Int[np.ndarray, " R"]:
    """Lengths of the stretches that are True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(np.int8)))
    return edges[1::2] - edges[::2]
