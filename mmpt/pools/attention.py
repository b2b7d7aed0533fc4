"""A learned query attends to all tokens (attentive probing: Yu et al. 2022, CoCa, section 3.2; Bardes et al. 2024)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mmpt.pools import Pool, TokenLatents, side_by_side, without_padding
from mmpt.trunk.attention import check_heads


class AttentionPool(Pool):
    """One learned query, multi-head, over the valid tokens of all streams; what `mmpt probe --kind attentive` trains.

    Args:
        heads: must divide the width.
    """

    def __init__(self, width: int, *, heads: int = 4) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.keys_values, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
        """Zeros go in where a row has no tokens at all."""
        every = without_padding(side_by_side(streams))
        rows, tokens, width = every.latents.shape
        split = (rows, tokens, self.heads, width // self.heads)
        keys, values = (x.view(split).transpose(1, 2) for x in self.keys_values(self.norm(every.latents)).chunk(2, 2))
        query = self.query.to(keys.dtype).view(1, self.heads, 1, -1).expand(rows, -1, -1, -1)
        pooled = scaled_dot_product_attention(query, keys, values, attn_mask=every.valid[:, None, None, :])
        return self.out(pooled.nan_to_num().flatten(1))
