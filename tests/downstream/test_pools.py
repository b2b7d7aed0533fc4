"""Every pool: padding and streams that a row lacks change nothing, and gradients reach what it has to learn."""

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component, find_parts
from mmpt.downstream.pooling import TokenLatents
from mmpt.finetune.pools import Pool

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


@pytest.mark.parametrize("name", sorted(find_parts("mmpt.finetune.pools", Pool)))
def test_a_pool_looks_at_what_a_row_has_alone(name, randomised):
    pool = randomised(component(Pool, name).build(WIDTH))
    pooled, other = pool(streams_of()), pool(streams_of(nonsense=1e4))
    assert pooled.shape == (ROWS, WIDTH)
    assert pooled.isfinite().all()
    assert_close(pooled, other, rtol=0, atol=1e-5)
    for row in range(ROWS):
        here = {
            stream: TokenLatents(*(t[row : row + 1, : int(sizes[row])] for t in streams_of()[stream]))
            for stream, sizes in SIZES.items()
            if sizes[row]
        }
        if here:
            assert_close(pool(here)[0], pooled[row], rtol=0, atol=1e-5)
    if list(pool.parameters()):
        pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pool.parameters())
