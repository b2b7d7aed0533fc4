"""GroupNorm with a group a channel, which no padding reaches (for the stems of HuBERT base and C-MELT)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class RowNorm(nn.Module):
    """Norm of a linear map's outputs: mean and variance of a channel are those of the beginning of its row that counts.

    nn.GroupNorm would count padding, and a row would change with the company that it has in a batch. The outputs are
    never looked at: their mean and variance follow from those of the few numbers that go into the map, and the norm
    goes into its weight. That takes no pass over the outputs, forward or backward.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(
        self, x: Float[Tensor, "B T P"], weight: Float[Tensor, "P C"], counts: Int[Tensor, " B"] | int
    ) -> Float[Tensor, "B T C"]:
        """`x @ weight`, normed.

        `counts` of a row's steps count, as many of all rows if it is a number; what stands behind means nothing.
        """
        mean, covariance = _moments(x, counts)
        wide = weight.double()
        variance = ((covariance @ wide) * wide).sum(1)
        scale = (variance + self.eps).rsqrt().to(weight.dtype) * self.weight
        scaled = weight * scale.unsqueeze(1)  # B P C
        shift = self.bias - (mean.unsqueeze(2) * scaled).sum(1).to(weight.dtype)
        return torch.baddbmm(shift.unsqueeze(1), x.to(weight.dtype), scaled)


def _moments(
    x: Float[Tensor, "B T P"], counts: Int[Tensor, " B"] | int
) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P P"]]:
    """Mean and covariance over the steps that count.

    In float64: neighbouring samples of a smooth signal are nearly equal, and the variance of their difference would be
    lost in the rounding of theirs.
    """
    steps = x.double()
    if isinstance(counts, int):
        steps = steps[:, :counts]
        mean = steps.mean(1, keepdim=True)
        centred, total = steps - mean, counts
    else:
        there = (torch.arange(x.shape[1], device=x.device) < counts.unsqueeze(1)).unsqueeze(2)
        total = counts.clamp(min=1).view(-1, 1, 1)
        mean = torch.where(there, steps, 0.0).sum(1, keepdim=True) / total
        centred = torch.where(there, steps - mean, 0.0)
    return mean.squeeze(1), centred.transpose(1, 2) @ centred / total
