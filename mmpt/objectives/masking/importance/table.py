"""Weights that the user gives, one a token id."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError
from mmpt.objectives.masking.importance import Importance
from mmpt.tokens import StreamContext


class TableImportance(Importance):
    """A weight for every id, from a NumPy file.

    Args:
        file: `.npy` with V non-negative numbers, one a token id.
    """

    def __init__(self, modality: Modality, *, file: Path) -> None:
        if not isinstance(modality, Text):
            raise ConfigError("importance 'table' has a meaning for text only; use uniform")
        try:
            weights = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"file: {file} can't be read as a NumPy array ({error})") from error
        if weights.shape != (modality.vocabulary,):
            raise ConfigError(
                f"file: {file} has shape {weights.shape}, expected ({modality.vocabulary},): one weight an id"
            )
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise ConfigError(f"file: {file} has negative or non-finite weights")
        self.table = torch.from_numpy(weights.astype(np.float64))

    def weight(self, context: StreamContext) -> Float[Tensor, "B N"]:
        """By id."""
        self.table = self.table.to(context.content.values.device)
        return self.table[context.content.values]
