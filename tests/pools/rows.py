"""Rows of latents with all that makes pooling hard."""

import torch

from mmpt.pools import TokenLatents

WIDTH, ROWS = 16, 4
SIZES = {"text": torch.tensor([[5], [0], [3], [0]]), "image": torch.tensor([[4], [2], [0], [0]])}


def streams_of(seed=0, nonsense=0.0):
    """Row 1 lacks text, row 2 the picture, row 3 both; padding is full of nonsense."""
    generator = torch.Generator().manual_seed(seed)
    streams = {}
    for name, sizes in SIZES.items():
        place = torch.arange(6).expand(ROWS, -1)
        valid = place < sizes
        latents = torch.randn(ROWS, 6, WIDTH, generator=generator)
        latents = torch.where(valid.unsqueeze(2), latents, nonsense)
        streams[name] = TokenLatents(latents, valid, valid & (place > 0), place)
    return streams
