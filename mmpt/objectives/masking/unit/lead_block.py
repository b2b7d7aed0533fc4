"""Blocks of neighbouring leads and strips of an ECG, as images have blocks of patches."""

from jaxtyping import Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.ecg import Ecg
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.masking.unit.runs import dense_valid
from mmpt.randomness import fold, uniform
from mmpt.tokens import StreamContext


class LeadBlockUnit(Unit):
    """Blocks of `leads` x `strips` on a grid with a random phase a recording on each axis; cut off at the borders.

    Args:
        leads: of a block, neighbours in the data set's order.
        strips: of a block.
    """

    def __init__(self, modality: Modality, *, leads: int = 3, strips: int = 4) -> None:
        if not isinstance(modality, Ecg):
            raise ConfigError(
                "unit 'lead_block' has a meaning for strips of single leads only (type: ecg); use time_span or block"
            )
        if not (1 <= leads <= len(modality.leads) and 1 <= strips <= modality.max_places):
            raise ConfigError(
                f"leads, strips: expected 1 to {len(modality.leads)} leads and 1 to {modality.max_places} strips, got "
                f"{leads} and {strips}"
            )
        self.leads, self.strips, self.max_places = leads, strips, modality.max_places

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """One unit a block."""
        place = context.content.place
        lead = (place // self.max_places + self._phase(context, "lead", self.leads)) // self.leads
        strip = (place % self.max_places + self._phase(context, "strip", self.strips)) // self.strips
        return dense_valid(lead * (self.max_places // self.strips + 2) + strip, context.content)

    def _phase(self, context: StreamContext, axis: str, size: int) -> Int[Tensor, "B 1"]:
        return (uniform(fold(context.draw, f"lead block {axis}")) * size).long().unsqueeze(1)
