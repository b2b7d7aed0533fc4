"""From latents to the outputs of a task."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from mmpt.downstream.pooling import TokenLatents
from mmpt.finetune.pools import Pool


def linear(width: int, size: int) -> nn.Linear:
    """Small random weights, no bias to begin with."""
    layer = nn.Linear(width, size)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class PooledHead(nn.Module):
    """All streams -> one vector -> numbers.

    Args:
        pool, width, size: the vector is of D numbers, the outputs are `size`.
    """

    def __init__(self, pool: Pool, width: int, size: int) -> None:
        super().__init__()
        self.pool, self.linear = pool, linear(width, size)

    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B V"]:
        """V is `size`."""
        return self.linear(self.pool(streams))


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
