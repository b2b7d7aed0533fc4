"""Linear, GELU, linear: the feed-forward network of every block (Vaswani et al. 2017, section 3.3).

Names and order of its weights are those of timm's `Mlp`, which is not imported here: it brings torchvision along, which
is slow to import, to the start of every command that builds a model.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu


class Mlp(nn.Module):
    """D -> hidden -> D for every token by itself, with the exact GELU.

    Args:
        width: D. hidden: width between the two.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """Shape in = shape out."""
        return self.fc2(gelu(self.fc1(x)))
