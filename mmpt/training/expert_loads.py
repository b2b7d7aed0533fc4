"""Which expert got how much, over the steps between two lines of the log: a few figures out of many counts."""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

LOADS = "experts/load/"  # then layer, expert and stream
LEAST, MOST = 0.01, 4.0  # of a fair share
PATIENCE = 3  # lines of the log


class ExpertLoadWarning(UserWarning):
    """An expert gets next to nothing, or far more than its share."""


def folded(means: Mapping[str, float]) -> dict[str, float]:
    """All other figures as they are, and instead of the loads these few; 1 is a fair share, the worst layer counts.

    `experts/load_max` and `load_min`; `experts/<stream>/load_max`, of one stream's tokens; and
    `experts/stream_information`, the mutual information of expert and stream in units of the stream's entropy, a mean
    over layers: 0 if experts don't tell streams apart, 1 if each is of one stream.
    """
    figures = {name: value for name, value in means.items() if not name.startswith(LOADS)}
    layers: dict[str, dict[str, list[float]]] = {}
    for name in sorted(means.keys() - figures.keys()):  # so that every stream has the experts in the same order
        layer, _, stream = name.removeprefix(LOADS).split("/", 2)
        layers.setdefault(layer, {}).setdefault(stream, []).append(means[name])
    tables = [{stream: np.array(own) for stream, own in layer.items() if sum(own) > 0} for layer in layers.values()]
    tables = [table for table in tables if table]
    if not tables:
        return figures
    fair = [_fair(sum(table.values(), np.zeros(1))) for table in tables]
    figures["experts/load_max"] = max(float(loads.max()) for loads in fair)
    figures["experts/load_min"] = min(float(loads.min()) for loads in fair)
    if len(tables[0]) > 1:
        for stream in tables[0]:
            figures[f"experts/{stream}/load_max"] = max(float(_fair(table[stream]).max()) for table in tables)
        figures["experts/stream_information"] = float(np.mean([_information(list(t.values())) for t in tables]))
    return figures


def _fair(loads: Float[np.ndarray, " E"]) -> Float[np.ndarray, " E"]:
    return loads / loads.mean()


def _information(loads: Sequence[Float[np.ndarray, " E"]]) -> float:
    joint = np.stack(loads) / np.sum(loads)
    of_stream, of_expert, of_both = (_entropy(part) for part in (joint.sum(1), joint.sum(0), joint.ravel()))
    return (of_stream + of_expert - of_both) / of_stream


def _entropy(shares: Float[np.ndarray, " _"]) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


class LoadWatch:
    """Speaks once a run, and not of a passing state."""

    def __init__(self) -> None:
        self._uneven, self._spoke = 0, False

    def look(self, values: Mapping[str, float]) -> str:
        """The sentence to show, or nothing; an ExpertLoadWarning goes along with it."""
        most, least = values.get("experts/load_max", 1.0), values.get("experts/load_min", 1.0)
        self._uneven = self._uneven + 1 if least < LEAST or most > MOST else 0
        if self._spoke or self._uneven < PATIENCE:
            return ""
        self._spoke = True
        sentence = (
            f"loads of the experts are uneven: the least gets {least:.3f} of a fair share of the tokens, the most "
            f"{most:.1f}; raise training.balance_weight, or give the trunk fewer experts"
        )
        warnings.warn(sentence, ExpertLoadWarning, stacklevel=2)
        return sentence
