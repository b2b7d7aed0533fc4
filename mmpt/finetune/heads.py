"""From latents to the outputs of a task."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.pools import Pool, TokenLatents

LEAST = 0.1  # of the columns' mean deviation: what hardly varied among a few samples must not blow up in others


def linear(width: int, size: int) -> nn.Linear:
    """Small random weights, no bias to begin with."""
    layer = nn.Linear(width, size)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class Standard(nn.Module):
    """Columns without the mean and the scale that they had among the samples it learned from; till then as they are.

    Samples' vectors are often nearly the same, and differ by hundredths of what they have in common. Weights on them
    would have to become large before they say anything, which takes an optimiser's small steps thousands of updates.
    MAE (He et al. 2022, appendix A.1) has a batch normalisation without weights here; the fixed numbers of one pass
    depend on no batch, no rank and no padding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.mean: Tensor
        self.deviation: Tensor

    def learn(self, rows: Float[Tensor, "B D"]) -> None:
        """From one row a sample; of samples that are all alike only the mean."""
        deviation = rows.std(0, correction=0)
        least = LEAST * deviation.square().mean().sqrt()
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(torch.where(least > 0, deviation.maximum(least), 1.0))

    def forward(self, rows: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """In single precision: the difference is small beside the rows."""
        return (rows.float() - self.mean) / self.deviation


class PooledHead(nn.Module):
    """All streams -> one vector -> standardised -> numbers.

    Args:
        pool, width, size: the vector is of D numbers, the outputs are `size`.
    """

    def __init__(self, pool: Pool, width: int, size: int) -> None:
        super().__init__()
        self.pool, self.standard, self.linear = pool, Standard(width), linear(width, size)

    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B V"]:
        """V is `size`."""
        return self.linear(self.standard(self.vector(streams)))

    def vector(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
        """What a sample comes down to."""
        return self.pool(streams)


class TokenHead(nn.Module):
    """Every token of one stream -> numbers; what other streams say of it has come through the trunk.

    Args:
        stream, width, size: of each token's D numbers `size` are made.
    """

    def __init__(self, stream: str, width: int, size: int) -> None:
        super().__init__()
        self.stream, self.linear = stream, linear(width, size)

    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B N V"]:
        """V is `size`; padding gets numbers, too."""
        return self.linear(streams[self.stream].latents)
