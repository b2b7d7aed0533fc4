"""The plain two-layer feed-forward network (Vaswani et al. 2017, section 3.3) with GELU."""

from jaxtyping import Bool, Float, Int
from timm.layers.mlp import Mlp
from torch import Tensor

from mmpt.trunk.feedforward import FeedForward


class DenseFeedForward(FeedForward):
    """The same network for every token.

    Args:
        ratio: hidden width as a multiple of D.
    """

    def __init__(self, width: int, *, ratio: float = 4.0) -> None:
        super().__init__()
        self.mlp = Mlp(width, int(width * ratio))

    def forward(
        self, x: Float[Tensor, "B S D"], valid: Bool[Tensor, "B S"], stream: Int[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B S D"], None]:
        """Shape in = shape out."""
        return self.mlp(x), None
