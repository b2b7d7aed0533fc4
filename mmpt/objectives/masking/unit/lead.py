"""Whole leads of an ECG, each predicted from the others (random lead masking, Oh et al. 2022)."""

from jaxtyping import Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.ecg import Ecg
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.masking.unit.runs import dense_valid
from mmpt.tokens import StreamContext


class LeadUnit(Unit):
    """All strips of a lead together."""

    def __init__(self, modality: Modality) -> None:
        if not isinstance(modality, Ecg):
            raise ConfigError(
                "unit 'lead' has a meaning for strips of single leads only (type: ecg); use time_span, span or token"
            )
        self.max_places = modality.max_places

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """One unit a lead."""
        return dense_valid(context.content.place // self.max_places, context.content)
