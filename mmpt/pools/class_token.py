"""The class tokens of a sample's streams."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from mmpt.pools import Pool, TokenLatents, class_mean


class ClassTokenPool(Pool):
    """Mean over a row's class tokens: those that open a stream and stand for no measurement; 0 where there is none."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
        """No weights."""
        return class_mean(streams)[0]
