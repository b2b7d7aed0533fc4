"""A model that makes its own targets may make them all alike: watched from the figures of every step."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from mmpt.errors import MmptError


class Limit(NamedTuple):
    """What a figure may fall to, and what to do about it."""

    least: float
    advice: str


SLOWER = "raise objective.teacher.start, or predict more than one layer"
LIMITS = {
    "/target_std": Limit(0.1, SLOWER),  # data2vec's guard, and the next too, as fairseq has it
    "/prediction_std": Limit(0.01, SLOWER),
    "/latent_std": Limit(0.05, SLOWER),  # a LayerNorm is behind them: cosines of tokens are 0.9975 there
    "/code_perplexity": Limit(2.0, "raise the stream's contrast.diversity or contrast.weight"),
}
EARLY = 0.1  # of the run, in which predictions are still near their mean
PATIENCE = 20  # steps in a row

Action = Literal["warn", "stop", "off"]


class CollapseWarning(UserWarning):
    """Targets, predictions or latents hardly differ from token to token, or all are one code."""


class CollapseError(MmptError):
    """The same, where the run was told to stop."""


class CollapseWatch:
    """Counts the steps in a row in which a figure lies below its limit; the same on all ranks.

    Args:
        action: `warn` once of every figure, `stop` the run, or `off`.
        in_a_row, spoke: steps by figure, and the figures it warned of, as a checkpoint has them.
    """

    def __init__(self, action: Action, in_a_row: Mapping[str, int] | None = None, spoke: Iterable[str] = ()) -> None:
        self.action: Action = action
        self.in_a_row, self.spoke = dict(in_a_row or {}), set(spoke)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"in_a_row": self.in_a_row, "spoke": sorted(self.spoke)}

    def look(self, metrics: Mapping[str, tuple[float, float]], progress: float) -> list[str]:
        """The sentences to show; a CollapseWarning goes along with each. Raises CollapseError to stop."""
        if self.action == "off" or progress < EARLY:
            return []
        sentences = []
        for name, (total, count) in metrics.items():
            limit = next((limit for figure, limit in LIMITS.items() if name.endswith(figure)), None)
            if limit is None or not count:
                continue
            self.in_a_row[name] = self.in_a_row.get(name, 0) + 1 if total / count < limit.least else 0
            if self.in_a_row[name] >= PATIENCE and name not in self.spoke:
                sentences.append(self._speak(name, total / count, limit))
        return sentences

    def _speak(self, name: str, value: float, limit: Limit) -> str:
        self.spoke.add(name)
        sentence = (
            f"{name} is {value:.3g}, below {limit.least:g} for {PATIENCE} steps in a row: the model "
            f"collapses; lower training.optimizer.learning_rate, {limit.advice}"
        )
        if self.action == "stop":
            raise CollapseError(f"{sentence}; training.collapse=warn goes on all the same")
        warnings.warn(sentence, CollapseWarning, stacklevel=3)
        return sentence
