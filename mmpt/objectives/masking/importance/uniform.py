"""Every token alike."""

from mmpt.encoders import Modality
from mmpt.objectives.masking.importance import Importance
from mmpt.tokens import StreamContext


class UniformImportance(Importance):
    """No preference."""

    def __init__(self, modality: Modality) -> None:
        pass

    def weight(self, context: StreamContext) -> None:
        """All alike."""
