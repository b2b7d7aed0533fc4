"""Hidden tokens are replaced by random vectors (w2v-BERT, Chung et al. 2021; BEST-RQ, Chiu et al. 2022)."""

import torch
from jaxtyping import Bool
from torch import Tensor

from mmpt.errors import ConfigError
from mmpt.objectives.corruption import Corruption
from mmpt.randomness import uniform_rows
from mmpt.tokens import Shown, StreamContext, Tokens, replace


class NoiseCorruption(Corruption):
    """Each hidden token gets normal numbers of its own; nothing is learned.

    Args:
        std: their standard deviation; BEST-RQ has 0.1, w2v-BERT does not say.
    """

    drops = False

    def __init__(self, width: int, *, std: float = 0.1) -> None:
        super().__init__()
        if std < 0:
            raise ConfigError(f"std: expected 0 or more, got {std}")
        self.std = std

    def forward(self, tokens: Tokens, hidden: Bool[Tensor, "B N"], context: StreamContext) -> Shown:
        """All N tokens, in their places."""
        _, size, width = tokens.x.shape
        lots = uniform_rows(context.draw, size * width, "noise").view(tokens.x.shape)
        noise = (self.std * torch.special.ndtri(lots)).to(tokens.x.dtype)
        return replace(tokens, torch.where(hidden.unsqueeze(2), noise, tokens.x))
