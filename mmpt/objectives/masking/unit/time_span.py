"""The same stretch of time in all leads of an ECG, which no other lead can give away."""

from jaxtyping import Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.ecg import Ecg
from mmpt.encoders.ecg_stem import EcgStem
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.masking.unit.runs import dense_valid
from mmpt.randomness import fold, uniform
from mmpt.tokens import StreamContext


class TimeSpanUnit(Unit):
    """Stretches of `length` strips with a random phase a recording; cut off at its ends.

    Args:
        length: strips of a stretch.
    """

    def __init__(self, modality: Modality, *, length: int = 4) -> None:
        if not isinstance(modality, Ecg | EcgStem):
            raise ConfigError("unit 'time_span' has a meaning for ECG only; use span, block or token")
        if not 1 <= length <= modality.max_places:
            raise ConfigError(f"length: expected 1 to {modality.max_places} strips, got {length}")
        self.length, self.max_places = length, modality.max_places

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """By time alone."""
        phase = (uniform(fold(context.draw, "time span")) * self.length).long().unsqueeze(1)
        return dense_valid((context.content.place % self.max_places + phase) // self.length, context.content)
