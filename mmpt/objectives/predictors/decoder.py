"""A shallow self-attention decoder over shown latents and mask tokens (MAE, He et al. 2021, section 3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.config import component
from mmpt.encoders import Encoder
from mmpt.objectives.predictors import Latents, Predictor
from mmpt.tokens import Content, Scored, flatten, restore
from mmpt.trunk.attention import may_attend
from mmpt.trunk.feedforward import FeedForward
from mmpt.trunk.positions import FixedPlaces
from mmpt.trunk.transformer import Block, Surroundings, initialise


class DecoderPredictor(Predictor):
    """Latents narrowed, mask tokens put where tokens were dropped, the stream's places added, blocks, a linear head.

    Args:
        width: of the decoder. depth: blocks. heads: of attention; must divide width.
        norm_eps: of every LayerNorm.
    """

    mixes_tokens = True
    entry_parts = ("entry", "mask_token", "places")

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
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.places = FixedPlaces(encoder.place_table(width))
        dense = component(FeedForward, "dense")
        self.blocks = nn.ModuleList(
            Block(width, heads, dense.build(width), layer=n, eps=norm_eps) for n in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.head = nn.Linear(width, size)
        initialise(self)

    def forward(self, latents: Latents, content: Content, scored: Scored) -> Float[Tensor, "M P"]:
        """All N tokens go through the blocks but the last, which computes the scored ones alone."""
        x = restore(self.entry(latents.own), latents.shown, self.mask_token, content.valid.shape[1])
        x = x + self.places(content.place)
        allowed = None if content.full else may_attend(content.valid, content.segment)
        around = Surroundings(content.valid, torch.zeros_like(content.place), allowed, None, latents.draw)
        *blocks, last = self.blocks
        for block in blocks:
            x, _ = block(x, around)
        x, _ = last(x, around, scored.places)
        return self.head(flatten(self.norm(x), scored))
