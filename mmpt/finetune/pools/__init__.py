"""From the latents of all of a sample's streams to one vector."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from mmpt.downstream.pooling import TokenLatents


class Pool(nn.Module, ABC):
    """Built with the width D. One that has a loss of its own is a `LossBeside`, too."""

    streams = 0  # how many it joins, which then are all there, if only as padding; 0: any number

    @abstractmethod
    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
        """Padding and absent streams must change nothing."""
