"""From latents of which some are taken away to what a teacher made of the input without them (MaskEmbed)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmpt.tokens import Content
from mmpt.trunk.attention import SelfAttention, may_attend
from mmpt.trunk.mlp import Mlp
from mmpt.trunk.transformer import initialise


class LayerScale(nn.Module):
    """Each of D numbers times one that is learned (Touvron et al. 2021)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Shape in = shape out."""
        return x * self.scale


class ScaledBlock(nn.Module):
    """The trunk's block whose two changes are small at first.

    Args:
        width: D. heads: of attention. eps: of the norms. start: what the changes are multiplied by.
    """

    def __init__(self, width: int, heads: int, *, eps: float, start: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = SelfAttention(width, heads)
        self.scale1 = LayerScale(width, start)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width)
        self.scale2 = LayerScale(width, start)

    def forward(self, x: Float[Tensor, "B N D"], allowed: Bool[Tensor, "B 1 N N"] | None) -> Float[Tensor, "B N D"]:
        """Shape in = shape out."""
        x = x + self.scale1(self.attention(self.norm1(x), allowed, None))
        return x + self.scale2(self.mlp(self.norm2(x)))


class MaskDecoder(nn.Module):
    """Embeddings of a complete row, those that are not kept set to 0, then places, blocks, a norm and a linear map.

    Args:
        width: D, of the teacher too. places: rows of the table of learned positions. depth: blocks. heads: of
        attention. eps: of the norms. layer_scale: see `ScaledBlock`.
    """

    def __init__(self, width: int, places: int, *, depth: int, heads: int, eps: float, layer_scale: float) -> None:
        super().__init__()
        self.embed = nn.Linear(width, width)
        self.places = nn.Embedding(places, width)
        self.blocks = nn.ModuleList(ScaledBlock(width, heads, eps=eps, start=layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.head = nn.Linear(width, width)
        initialise(self)
        nn.init.zeros_(self.embed.weight)

    def forward(
        self, embeddings: Float[Tensor, "B N D"], keep: Bool[Tensor, "B N"], content: Content
    ) -> Float[Tensor, "B N D"]:
        """`embeddings` are `embed` of the student's latents; every token comes out, kept or not."""
        x = torch.where(keep.unsqueeze(2), embeddings, 0.0) + self.places(content.place)
        allowed = None if content.full else may_attend(content.valid, content.segment)
        for block in self.blocks:
            x = block(x, allowed)
        return self.head(self.norm(x))
