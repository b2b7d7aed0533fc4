"""Cosines of a projected token with a learned vector for every unit (HuBERT, Hsu et al. 2021, equation 3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmpt.encoders import Encoder
from mmpt.errors import ConfigError
from mmpt.objectives.predictors import Latents, Predictor
from mmpt.tokens import Content, Scored, flatten, gather


class CosineCodebookPredictor(Predictor):
    """Logit of unit c: cosine of the projected latent and vector e_c, divided by the temperature.

    Args:
        projection: numbers that both are compared in; HuBERT Base has 256.
        temperature: HuBERT's 0.1.
    """

    mixes_tokens = False

    def __init__(
        self, encoder: Encoder, width: int, size: int, *, projection: int = 256, temperature: float = 0.1
    ) -> None:
        super().__init__()
        if projection < 1 or temperature <= 0:
            raise ConfigError(f"projection and temperature: expected above 0, got {projection} and {temperature}")
        self.temperature = temperature
        self.projection = nn.Linear(width, projection)
        self.codes = nn.Parameter(torch.rand(size, projection))

    def forward(self, latents: Latents, content: Content, scored: Scored) -> Float[Tensor, "M P"]:
        """Each scored token by itself; in float32."""
        tokens = self.projection(flatten(gather(latents.own, scored.places), scored))
        return normalize(tokens.float(), dim=1) @ normalize(self.codes.float(), dim=1).t() / self.temperature
