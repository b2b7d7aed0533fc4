"""Tokens look things up in a learned dictionary before their mean is taken (NV-Embed, Lee et al. 2024)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

from mmpt.errors import ConfigError
from mmpt.pools import Pool, TokenLatents, observed_mean, side_by_side, without_padding
from mmpt.trunk.attention import check_heads


class LatentAttentionPool(Pool):
    """Every token attends to the same learned latents, then a GEGLU network; the mean of its tokens is a row's vector.

    Tokens are the queries and latents the dictionary, so that a token never sees another one. Both branches end in
    zeros at first: the pool starts as the mean.

    Args:
        latents: entries of the dictionary; one for all streams.
        heads: must divide the width.
        expansion: hidden width of the GEGLU network, as a multiple of D.
        unit_length: the vector is divided by its length, as in the paper.
    """

    def __init__(
        self, width: int, *, latents: int = 32, heads: int = 4, expansion: int = 4, unit_length: bool = True
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        if latents < 1 or expansion < 1:
            raise ConfigError(f"latents, expansion: expected at least 1 each, got {latents} and {expansion}")
        self.heads, self.unit_length = heads, unit_length
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.token_norm, self.latent_norm, self.change_norm = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key_value = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.found = nn.Linear(width, width, bias=False)
        self.enter, self.leave = nn.Linear(width, 2 * expansion * width), nn.Linear(expansion * width, width)
        for last in (self.found.weight, self.leave.weight, self.leave.bias):
            nn.init.zeros_(last)

    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
        """Zeros where a row has no tokens at all."""
        every = without_padding(side_by_side(streams))
        pooled = observed_mean({"every": every._replace(latents=self._refined(every.latents))})[0]
        return normalize(pooled, dim=1) if self.unit_length else pooled

    def _refined(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        query = self.query(self.token_norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)  # B H N W
        entries = self.key_value(self.latent_norm(self.latents)).chunk(2, dim=1)
        key, value = (
            part.unflatten(1, (self.heads, -1)).transpose(0, 1).expand(len(x), -1, -1, -1) for part in entries
        )
        x = x + self.found(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        change, gate = self.enter(self.change_norm(x)).chunk(2, dim=2)
        return x + self.leave(change * gelu(gate))
