"""A linear or multi-layer head on every scored token."""

from jaxtyping import Float
from torch import Tensor, nn

from mmpt.encoders import Encoder
from mmpt.objectives.predictors import Latents, Predictor
from mmpt.tokens import Content, Scored, flatten, gather
from mmpt.trunk.transformer import initialise


class MlpPredictor(Predictor):
    """`layers` hidden layers of the trunk's width with GELU, then a linear map; 0 is a linear head.

    Args:
        layers: hidden layers.
    """

    mixes_tokens = False

    def __init__(self, encoder: Encoder, width: int, size: int, *, layers: int = 0) -> None:
        super().__init__()
        hidden = [module for _ in range(layers) for module in (nn.Linear(width, width), nn.GELU())]
        self.head = nn.Sequential(*hidden, nn.Linear(width, size))
        initialise(self)

    def forward(self, latents: Latents, content: Content, scored: Scored) -> Float[Tensor, "M P"]:
        """Each scored token by itself."""
        return self.head(flatten(gather(latents.own, scored.places), scored))
