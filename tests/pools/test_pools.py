"""Every pool: padding and streams that a row lacks change nothing, and gradients reach what it has to learn."""

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from mmpt.config import component, find_parts
from mmpt.errors import ConfigError
from mmpt.pools import Pool, TokenLatents
from tests.pools.rows import ROWS, SIZES, WIDTH, streams_of


@pytest.mark.parametrize("name", sorted(find_parts("mmpt.pools", Pool)))
def test_a_pool_looks_at_what_a_row_has_alone(name, randomised):
    pool = randomised(component(Pool, name).build(WIDTH))
    pooled, other = pool(streams_of()), pool(streams_of(nonsense=torch.nan))
    assert pooled.shape == (ROWS, WIDTH)
    assert pooled.isfinite().all()
    assert_close(pooled, other, rtol=0, atol=1e-5)
    for row in range(ROWS):
        here = {
            stream: TokenLatents(*(t[row : row + 1, : int(sizes[row])] for t in streams_of()[stream]))
            for stream, sizes in SIZES.items()
            if sizes[row] or pool.streams  # a pool that joins some number of them gets all of them
        }
        if any(sizes[row] for sizes in SIZES.values()):
            assert_close(pool(here)[0], pooled[row], rtol=0, atol=1e-5)
    learned = [p for p in pool.parameters() if p.requires_grad]
    if learned:
        other.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)


def test_a_recipe_may_say_class_as_encode_does():
    assert component(Pool, "class").target is component(Pool, "class_token").target


@pytest.mark.parametrize("name", ["attention", "latent_attention"])
def test_heads_share_the_width(name):
    with pytest.raises(ConfigError, match="width 16 can't be shared by 3 heads; choose a divisor of 16"):
        component(Pool, name, heads=3).build(WIDTH)


def test_latent_attention_starts_as_the_mean_at_unit_length():
    streams = streams_of()
    start, mean = (
        component(Pool, "latent_attention").build(WIDTH)(streams),
        component(Pool, "mean").build(WIDTH)(streams),
    )
    assert_close(start, normalize(mean, dim=1), rtol=0, atol=1e-6)
    longer = component(Pool, "latent_attention", unit_length=False).build(WIDTH)(streams)
    assert_close(longer, mean, rtol=0, atol=1e-6)


def test_latent_attention_does_not_know_the_order_of_tokens(randomised):
    pool, streams = randomised(component(Pool, "latent_attention").build(WIDTH)), streams_of()
    turned = {name: TokenLatents(*(t.flip(1) for t in own)) for name, own in streams.items()}
    assert_close(pool(turned), pool(streams), rtol=0, atol=1e-6)
    assert_close(pool(streams)[:3].norm(dim=1), torch.ones(3), rtol=0, atol=1e-5)


def test_latent_attention_is_torchs_attention_and_a_gated_network(randomised):
    pool = randomised(component(Pool, "latent_attention", unit_length=False).build(WIDTH))
    x = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(3))
    every = torch.ones(1, 5, dtype=torch.bool)
    peer = torch.nn.MultiheadAttention(WIDTH, 4, bias=False, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([pool.query.weight, pool.key_value.weight]))
        peer.out_proj.weight.copy_(pool.found.weight)
        entries = pool.latent_norm(pool.latents).unsqueeze(0)
        o = x + peer(pool.token_norm(x), entries, entries)[0]
        change, gate = pool.enter(pool.change_norm(o)).chunk(2, dim=2)
        o = o + pool.leave(change * torch.nn.GELU()(gate))
    got = pool({"text": TokenLatents(x, every, every, torch.arange(5).expand(1, -1))})
    assert_close(got, o.mean(dim=1), rtol=0, atol=1e-5)
