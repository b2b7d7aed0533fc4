"""GroupNorm with a group a channel, which no padding reaches (for the stems of HuBERT base and C-MELT)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class RowNorm(nn.Module):
    """Mean and variance of a channel are those of the beginning of its row that counts.

    nn.GroupNorm would count padding, and a row would change with the company that it has in a batch.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Float[Tensor, "B T C"], counts: Int[Tensor, " B"] | int) -> Float[Tensor, "B T C"]:
        """`counts` of a row's steps count, as many of all rows if it is a number; what stands behind means nothing."""
        steps = x.float()
        if isinstance(counts, int):
            variance, mean = torch.var_mean(steps[:, :counts], dim=1, keepdim=True, correction=0)
        else:
            there = (torch.arange(x.shape[1], device=x.device) < counts.unsqueeze(1)).unsqueeze(2)
            total = counts.clamp(min=1).view(-1, 1, 1)
            mean = torch.where(there, steps, 0.0).sum(dim=1, keepdim=True) / total
            variance = torch.where(there, steps - mean, 0.0).square().sum(dim=1, keepdim=True) / total
        scale = (variance + self.eps).rsqrt() * self.weight
        return torch.addcmul(self.bias - mean * scale, steps, scale).to(x.dtype)
