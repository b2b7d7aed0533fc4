"""Each stream's features against those of all rows, every comparison a yes or no (SigLIP, Zhai et al. 2023)."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from mmpt.errors import ConfigError
from mmpt.objectives.loss_prediction import Figures
from mmpt.objectives.pairs import PairLoss


class SigmoidContrast(PairLoss):
    """-log sigmoid(z s) of all pairs of rows of a micro-batch; s is their similarity, z is 1 for a true pair, else -1.

    The negatives of a row are the other rows of its own micro-batch, and a pair whose text was replaced is one, too.

    Args:
        streams, weight: see `PairLoss`.
        size: numbers that are compared.
        form: `siglip` compares unit vectors with a learned scale and bias and divides by rows;
            `raw` takes inner products of tanh features as they are and divides by pairs of rows, as C-MELT's ETS does.
    """

    alone = True

    def __init__(
        self,
        width: int,
        *,
        streams: tuple[str, ...],
        weight: float = 1.0,
        size: int = 128,
        form: Literal["siglip", "raw"] = "siglip",
    ) -> None:
        super().__init__(streams=streams, weight=weight)
        if size < 1:
            raise ConfigError(f"size: expected at least 1, got {size}")
        self.unit_vectors = form == "siglip"
        self.heads = nn.ModuleList([nn.Linear(width, size), nn.Linear(width, size)])
        if self.unit_vectors:
            self.log_scale = nn.Parameter(torch.full((1,), math.log(10.0)))
            self.bias = nn.Parameter(torch.full((1,), -10.0))

    def denominator(self, there: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
        """Rows, or all pairs of them."""
        rows = there.sum().float()
        return rows if self.unit_vectors else rows.square()

    def features(self, x: Float[Tensor, "B D"], number: int) -> Float[Tensor, "B E"]:
        """What is compared, of the first stream (0) or of the second (1); inner products are similarities."""
        mapped = self.heads[number](x).float()
        return normalize(mapped, dim=1) if self.unit_vectors else mapped.tanh()

    def forward(
        self,
        one: Float[Tensor, "B D"],
        other: Float[Tensor, "B D"],
        there: Bool[Tensor, " B"],
        matched: Bool[Tensor, " B"],
    ) -> tuple[Float[Tensor, " B"], Figures]:
        """Every row's comparisons with all rows that are there."""
        with torch.autocast(one.device.type, enabled=False):
            similarity = self.features(one.float(), 0) @ self.features(other.float(), 1).T
            logits = similarity * self.log_scale.exp() + self.bias if self.unit_vectors else similarity
        both = there.unsqueeze(0) & there.unsqueeze(1)
        each = torch.where(both, -logsigmoid(signs(matched) * logits), 0.0).sum(1)
        return each, _figures(each, logits, both, there & matched, self.denominator(there))


def signs(matched: Bool[Tensor, " B"]) -> Float[Tensor, "B B"]:
    """1 where row and column are a true pair, else -1."""
    return 2 * torch.diag(matched.float()) - 1


@torch.no_grad()
def _figures(
    each: Float[Tensor, " B"],
    logits: Float[Tensor, "B B"],
    both: Bool[Tensor, "B B"],
    true: Bool[Tensor, " B"],
    denominator: Float[Tensor, ""],
) -> Figures:
    """`found`: how often the own half is the most similar one of the micro-batch."""
    best = logits.masked_fill(~both, -torch.inf).argmax(dim=1) == torch.arange(len(logits), device=logits.device)
    return {"loss": (each.sum(), denominator), "found": ((best & true).sum().float(), true.sum().float())}
