"""What a scorer is sure of is hidden first (Ask2Mask, Baskar et al. 2022, section 3)."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.masking.importance import Importance
from mmpt.objectives.masking.importance.predicted_loss import hardest
from mmpt.tokens import StreamContext


class ScoreImportance(Importance):
    """The scores come with the data, see `scores` of a source. Units of several tokens are ranked by their mean.

    Args:
        mode: the `top` (the paper's) or the `bottom` units are hidden, whole ones as long as they fit and ties at
            random, or they are `sampled` in proportion to a power of the score.
        power: of sampling; 0 is uniform.
    """

    def __init__(self, modality: Modality, *, mode: Literal["top", "bottom", "sampled"], power: float = 1.0) -> None:
        if not modality.facts.values.get("scores"):
            raise ConfigError(
                "importance 'score' needs a scorer's confidence in every token, and no source of this stream has any; "
                "make some with 'mmpt units score' and name the folder in the source's `scores`"
            )
        self.mode, self.power = mode, power

    def weight(self, context: StreamContext) -> Float[Tensor, "B N"]:
        """Infinite for the chosen ones, or the score's power."""
        scores = scores_of(context)
        if self.mode == "sampled":
            return scores.double().pow(self.power)
        if context.units is None or context.budget is None:
            raise ValueError("importance 'score' needs units and a budget in its context")
        signed = scores if self.mode == "top" else -scores
        chosen = hardest(context.units, context.maskable, signed, context.budget, context.draw)
        return torch.ones_like(chosen, dtype=torch.float64).masked_fill(chosen, math.inf)


def scores_of(context: StreamContext) -> Float[Tensor, "B N"]:
    """Of every token; raises ConfigError for a batch that has none."""
    if context.content.scores is None:
        raise ConfigError("a scorer's confidence was asked for, and a batch has none; it comes with a recipe's sources")
    return context.content.scores
