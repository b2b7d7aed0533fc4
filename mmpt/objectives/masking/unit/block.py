"""Two-dimensional blocks of neighbouring patches (BEiT, Bao et al. 2021, section 2.3, draws sizes; ours are fixed)."""

import torch
from jaxtyping import Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.image import Image
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.masking.unit.runs import dense
from mmpt.randomness import fold, uniform
from mmpt.tokens import StreamContext


class BlockUnit(Unit):
    """Squares of `size` x `size` patches on a grid with a random phase a picture; cut off at the borders."""

    def __init__(self, modality: Modality, *, size: int = 2) -> None:
        if not isinstance(modality, Image):
            raise ConfigError("unit 'block' has a meaning for images only; use token or span")
        if not 1 <= size <= modality.side:
            raise ConfigError(f"size: expected 1 to {modality.side} patches, got {size}")
        self.size, self.side = size, modality.side

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """Token 0, the class token, is a unit of its own."""
        axis = torch.arange(self.side, device=context.draw.device)
        row = (axis + self._phase(context.draw, "row")) // self.size  # B side
        column = (axis + self._phase(context.draw, "column")) // self.size
        across = self.side // self.size + 2
        block = (row.unsqueeze(2) * across + column.unsqueeze(1)).flatten(1)  # B patches
        first = torch.full_like(block[:, :1], -1)
        return dense(torch.cat([first, block], dim=1))

    def _phase(self, draw: Int[Tensor, " B"], axis: str) -> Int[Tensor, "B 1"]:
        return (uniform(fold(draw, f"block {axis}")) * self.size).long().unsqueeze(1)
