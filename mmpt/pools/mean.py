"""The mean of what was observed."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from mmpt.pools import Pool, TokenLatents, observed_mean


class MeanPool(Pool):
    """Mean over a row's observed tokens of all streams; over its valid ones where none is observed."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
        """No weights."""
        return observed_mean(streams)[0]
