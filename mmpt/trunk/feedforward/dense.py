"""The plain two-layer feed-forward network (Vaswani et al. 2017, section 3.3) with GELU."""

from jaxtyping import Float
from torch import Tensor

from mmpt.trunk import Surroundings
from mmpt.trunk.feedforward import FeedForward
from mmpt.trunk.mlp import Mlp


class DenseFeedForward(FeedForward):
    """The same network for every token, whatever its stream.

    Args:
        ratio: hidden width as a multiple of D.
    """

    def __init__(self, width: int, streams: int = 1, *, ratio: float = 4.0) -> None:
        super().__init__()
        self.mlp = Mlp(width, int(width * ratio))

    def forward(self, x: Float[Tensor, "B S D"], around: Surroundings) -> tuple[Float[Tensor, "B S D"], None]:
        """Shape in = shape out."""
        return self.mlp(x), None
