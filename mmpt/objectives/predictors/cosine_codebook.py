"""Cosines of a projected token with a learned vector for every unit (HuBERT, Hsu et al. 2021, equation 3)."""

from collections.abc import Mapping
from typing import cast

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

    Built with the V of each label set; each has vectors of its own.

    Args:
        projection: numbers that both are compared in; HuBERT Base has 256.
        temperature: HuBERT's 0.1.
        untie: a projection for each label set; else they share one (fairseq's `untie_final_proj`).
        layers: the block, from 1, that each label set is predicted from (MS-HuBERT, Yadav et al. 2024); the last one's
            output has the trunk's final norm. The last for all by default.
    """

    mixes_tokens = False
    by_parts = True

    def __init__(
        self,
        encoder: Encoder,
        width: int,
        sizes: tuple[int, ...],
        *,
        projection: int = 256,
        temperature: float = 0.1,
        untie: bool = False,
        layers: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if projection < 1 or temperature <= 0:
            raise ConfigError(f"projection and temperature: expected above 0, got {projection} and {temperature}")
        if layers and len(layers) != len(sizes):
            raise ConfigError(f"layers: expected a block for each of {len(sizes)} label sets, got {len(layers)}")
        self.temperature, self.sizes, self.layers = temperature, sizes, layers
        self.projection = nn.Linear(width, projection)
        self.untied = nn.ModuleList(nn.Linear(width, projection) for _ in sizes[1:] if untie)
        self.codes = nn.Parameter(torch.rand(sum(sizes), projection))

    def forward(self, latents: Latents, content: Content, scored: Scored) -> Float[Tensor, "M P"]:
        """Each scored token by itself, the label sets side by side; in float32."""
        projected: dict[tuple[nn.Module, int], Tensor] = {}
        logits = []
        for number, codes in enumerate(self.codes.float().split(self.sizes)):
            projection = self.untied[number - 1] if self.untied and number else self.projection
            layer = self.layers[number] if self.layers else 0
            if (projection, layer) not in projected:
                x = cast("Mapping[int, Tensor]", latents.inner)[layer] if layer else latents.own
                tokens = projection(flatten(gather(x, scored.places), scored))
                projected[projection, layer] = normalize(tokens.float(), dim=1)
            logits.append(projected[projection, layer] @ normalize(codes, dim=1).t() / self.temperature)
        return torch.cat(logits, dim=1)
