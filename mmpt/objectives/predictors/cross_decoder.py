"""A decoder that queries scored positions alone; they look at latents, not at each other (CrossMAE, Fu et al. 2024)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.encoders import Encoder
from mmpt.objectives.predictors import Latents, Predictor
from mmpt.tokens import Content, Scored, flatten, gather
from mmpt.trunk.attention import CrossAttention
from mmpt.trunk.mlp import Mlp
from mmpt.trunk.positions import FixedPlaces
from mmpt.trunk.transformer import initialise


class CrossBlock(nn.Module):
    """Queries look at the memory, then each goes through a feed-forward network."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width)

    def forward(
        self, x: Float[Tensor, "B Q W"], memory: Float[Tensor, "B S W"], allowed: Tensor | None
    ) -> Float[Tensor, "B Q W"]:
        """Shape in = shape out."""
        x = x + self.attention(self.norm1(x), memory, allowed)
        return x + self.mlp(self.norm2(x))


class CrossDecoderPredictor(Predictor):
    """Computes scored positions only; sees the latents of every stream.

    Args:
        width: of the decoder. depth: blocks. heads: of attention; must divide width.
        norm_eps: of every LayerNorm.
    """

    mixes_tokens = True
    entry_parts = ("entry", "query", "places")

    def __init__(
        self,
        encoder: Encoder,
        trunk_width: int,
        size: int,
        *,
        width: int,
        depth: int,
        heads: int,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.entry = nn.Linear(trunk_width, width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.places = FixedPlaces(encoder.place_table(width))
        self.blocks = nn.ModuleList(CrossBlock(width, heads, norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.head = nn.Linear(width, size)
        initialise(self)

    def forward(self, latents: Latents, content: Content, scored: Scored) -> Float[Tensor, "M P"]:
        """Queries are a learned vector plus their place."""
        memory = self.entry(latents.every.x)
        x = self.query.to(memory.dtype) + self.places(gather(content.place, scored.places))  # B Q W
        allowed = None
        if not (latents.every.full and scored.full):
            segment = gather(content.segment, scored.places)
            same = segment.unsqueeze(2) == latents.every.segment.unsqueeze(1)  # B Q S
            allowed = (same & latents.every.valid.unsqueeze(1)).unsqueeze(1)
            # A query of padding may look anywhere: no row of the softmax is empty, and it is not scored.
            allowed = allowed | ~allowed.any(dim=3, keepdim=True)
        for block in self.blocks:
            x = block(x, memory, allowed)
        return self.head(flatten(self.norm(x), scored))
