"""Patches at regular distances, as MAE's grid-wise sampling shows them (He et al. 2021, figure 6)."""

import torch
from jaxtyping import Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.image import Image
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.tokens import StreamContext


class GridUnit(Unit):
    """All patches whose row and column leave the same remainders: `size` x `size` grids make up the picture.

    With size 2 and a ratio of 0.75, every fourth patch is shown, on the grid that is drawn for the picture.
    """

    def __init__(self, modality: Modality, *, size: int = 2) -> None:
        if not isinstance(modality, Image):
            raise ConfigError("unit 'grid' has a meaning for images only; use token or span")
        if not 1 <= size <= modality.side:
            raise ConfigError(f"size: expected 1 to {modality.side} patches, got {size}")
        self.size, self.side = size, modality.side

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """Unit 0 is the class token."""
        remainder = torch.arange(self.side, device=context.draw.device) % self.size
        grid = 1 + self.size * remainder.unsqueeze(1) + remainder
        units = torch.cat([grid.new_zeros(1), grid.flatten()])
        return units.expand(len(context.draw), -1)
