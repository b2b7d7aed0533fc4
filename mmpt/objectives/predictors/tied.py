"""The masked-language-model head whose last matrix is the embedding table (Press and Wolf 2017; BERT)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from mmpt.encoders import Encoder
from mmpt.encoders.text import TextEncoder
from mmpt.errors import ConfigError
from mmpt.objectives.predictors import Latents, Predictor
from mmpt.tokens import Content, Scored, flatten, gather
from mmpt.trunk.transformer import initialise


class TiedPredictor(Predictor):
    """Dense, GELU, LayerNorm, then the transposed table and a bias.

    Args:
        norm_eps: of the LayerNorm.
    """

    mixes_tokens = False

    def __init__(self, encoder: Encoder, width: int, size: int, *, norm_eps: float = 1e-6) -> None:
        super().__init__()
        if not isinstance(encoder, TextEncoder):
            raise ConfigError("predictor 'tied' needs an embedding table, which only text has; use mlp or a decoder")
        if size != encoder.embedding.num_embeddings:
            raise ConfigError(
                f"predictor 'tied' gives a number for each of {encoder.embedding.num_embeddings} ids where {size} "
                f"{'is' if size == 1 else 'are'} predicted; use mlp or a decoder"
            )
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        initialise(self)
        self.table = encoder.embedding.weight
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, latents: Latents, content: Content, scored: Scored) -> Float[Tensor, "M P"]:
        """Logits of scored tokens only."""
        chosen = flatten(gather(latents.own, scored.places), scored)  # M D
        return linear(self.norm(gelu(self.dense(chosen))), self.table, self.bias)
