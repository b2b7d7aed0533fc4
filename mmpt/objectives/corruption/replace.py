"""Hidden tokens are replaced: by a learned vector, a random one or by themselves (BERT, Devlin et al. 2018)."""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mmpt.errors import ConfigError
from mmpt.objectives.corruption import Corruption
from mmpt.randomness import uniform_rows
from mmpt.tokens import Shown, StreamContext, Tokens, replace


class ReplaceCorruption(Corruption):
    """Of the hidden tokens a share stays as it was, a share gets random content, the rest a learned vector.

    Args:
        keep: share left as it was; BERT has 0.1.
        random: share that gets other content of the same modality; BERT has 0.1.
    """

    drops = False

    def __init__(self, width: int, *, keep: float = 0.0, random: float = 0.0) -> None:
        super().__init__()
        if keep < 0 or random < 0 or keep + random > 1:
            raise ConfigError(f"keep, random: expected shares that add up to at most 1, got {keep} and {random}")
        self.keep, self.random = keep, random
        self.vector = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, tokens: Tokens, hidden: Bool[Tensor, "B N"], context: StreamContext) -> Shown:
        """All N tokens, in their places."""
        x = torch.where(hidden.unsqueeze(2), self.vector.to(tokens.x.dtype), tokens.x)
        lot = uniform_rows(context.draw, hidden.shape[1], "keep or random") if self.keep or self.random else None
        if lot is not None:
            kept = hidden & (lot < self.keep)
            x = torch.where(kept.unsqueeze(2), tokens.x, x)
        if lot is not None and self.random and context.substitute is not None:
            choice = uniform_rows(context.draw, hidden.shape[1], "random content")
            other = hidden & (lot >= self.keep) & (lot < self.keep + self.random)
            x = torch.where(other.unsqueeze(2), context.substitute(choice).to(x.dtype), x)
        return replace(tokens, x)
