"""The same patches hidden at all times of a clip (VideoMAE, Tong et al. 2022, section 3.3)."""

from jaxtyping import Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.video import Video
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.masking.unit.runs import dense_valid
from mmpt.tokens import StreamContext


class TubeUnit(Unit):
    """A place of the picture at all times together: what moves little can't be copied from a neighbour in time."""

    def __init__(self, modality: Modality) -> None:
        if not isinstance(modality, Video):
            raise ConfigError("unit 'tube' has a meaning for video only; use token, or block for images")
        self.tokens, self.places = modality.times, modality.side**2

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """One unit a place, numbered by rows of patches."""
        return dense_valid(context.content.place % self.places, context.content)
