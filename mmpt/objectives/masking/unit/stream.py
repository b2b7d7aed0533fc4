"""Whole streams, so that one side is at times predicted from the other alone (ModDrop, Neverova et al. 2015)."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmpt.config import Component, component
from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.randomness import fold, uniform
from mmpt.tokens import Siblings, StreamContext


class StreamUnit(Unit):
    """In some rows a stream is one unit and thus hidden whole; in the others smaller units make it up.

    Of the streams that a row has, one is drawn to be left out, the same in all of them: something is always left to
    predict from, and a row with a single stream is never hidden whole.

    Args:
        share: of the rows with several streams, in which the drawn stream is hidden whole.
        otherwise: the unit in all other rows.
    """

    def __init__(
        self, modality: Modality, *, share: float = 0.2, otherwise: Component[Unit] = component(Unit, "token")
    ) -> None:
        if not 0 < share < 1:
            raise ConfigError(f"share: expected a share between 0 and 1, got {share}")
        self.share = share
        self.otherwise = otherwise.build(modality)
        if self.otherwise.overlapping:
            raise ConfigError(
                f"otherwise: spans of '{otherwise.name}' overlap, and no row is made up of them; use 'span'"
            )

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """All tokens in unit 0 where the stream is to be hidden."""
        units = self.otherwise.units(context)
        if context.siblings is None:
            return units
        return torch.where(self._whole(context.siblings).unsqueeze(1), torch.zeros_like(units), units)

    def _whole(self, siblings: Siblings) -> Bool[Tensor, " B"]:
        names = list(siblings.maskable)
        present = torch.stack([siblings.maskable[name] > 0 for name in names], dim=1)  # B streams
        lots = torch.stack([uniform(fold(siblings.row, f"left out {name}")) for name in names], dim=1)
        drawn = (lots * present).argmax(dim=1) == names.index(siblings.name)
        asked = uniform(fold(siblings.row, "leave one out")) < self.share
        return drawn & asked & (present.sum(1) > 1)
