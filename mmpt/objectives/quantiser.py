"""Vectors -> one of V codes in each of G groups, learned on the way (wav2vec 2.0, Baevski et al. 2020, section 2)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from mmpt.errors import ConfigError


class Quantised(NamedTuple):
    """Some tokens of every row, as codes."""

    vectors: Float[Tensor, "B Q W"]  # the chosen codes' vectors, group behind group
    codes: Int[Tensor, "B Q G"]
    shares: Float[Tensor, "B Q G V"]  # softmax of the logits, without noise and temperature


class Quantiser(nn.Module):
    """Logits are linear in the token; the largest of a group is its code.

    Args:
        width: D, of the tokens. groups, codes: G and V. size: of the vectors of all groups together.
    """

    def __init__(self, width: int, groups: int, codes: int, size: int) -> None:
        super().__init__()
        if size % groups:
            raise ConfigError(f"size: {size} numbers can't be shared by {groups} groups; choose a multiple of {groups}")
        self.groups, self.codes = groups, codes
        self.logits = nn.Linear(width, groups * codes)
        self.vectors = nn.Parameter(torch.rand(groups, codes, size // groups))
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, x: Float[Tensor, "B Q D"], noise: Float[Tensor, "B Q E"] | None, temperature: float) -> Quantised:
        """With Gumbel noise (E = G V) a draw by the softmax, without it the likeliest code.

        The gradient is that of the softmax at this temperature (straight through: Jang et al. 2017).
        """
        logits = self.logits(x).float().unflatten(2, (self.groups, self.codes))  # B Q G V
        noisy = logits if noise is None else logits + noise.view(logits.shape)
        soft = (noisy / temperature).softmax(dim=3)
        codes = noisy.argmax(dim=3)
        hard = one_hot(codes, self.codes).to(soft.dtype)
        chosen = hard - soft.detach() + soft
        vectors = torch.einsum("bqgv,gvw->bqgw", chosen, self.vectors.float()).flatten(2)
        return Quantised(vectors, codes, logits.softmax(dim=3))


def perplexity(shares: Float[Tensor, "B Q G V"], valid: Bool[Tensor, "B Q"]) -> Float[Tensor, " G"]:
    """How many codes of each group are in use, over the valid tokens: V if all are alike, 1 if there is but one."""
    counted = torch.where(valid[:, :, None, None], shares, 0.0)
    mean = counted.sum((0, 1)) / valid.sum().clamp(min=1)
    return (-torch.xlogy(mean, mean).sum(1)).exp()


def diversity_loss(shares: Float[Tensor, "B Q G V"], valid: Bool[Tensor, "B Q"]) -> Float[Tensor, ""]:
    """(G V - perplexities) / (G V): 0 where all codes are used alike."""
    total = shares.shape[2] * shares.shape[3]
    return (total - perplexity(shares, valid).sum()) / total
