"""The post-norm trunk: what a block computes, what its inner states are, and that its modes compute the same."""

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.trunk import Trunk
from tests.trunk.test_transformer import DRAW, D, gradients, tokens_of


@pytest.fixture
def post_of(randomised):
    def make(**settings):
        settings = {"width": D, "depth": 3, "heads": 2, "norm": "post", **settings}
        return randomised(component(Trunk, "transformer", **settings).build(2)).eval()

    return make


def test_a_block_normalises_the_sum_of_what_came_and_each_change(post_of):
    trunk, tokens = post_of(depth=1), tokens_of()
    block, around = trunk.blocks[0], trunk.surroundings(tokens, DRAW)
    entering = tokens.x + tokens.position + trunk.stream_embedding(tokens.stream)
    middle = block.norm1(entering + block.attention(entering, around.allowed, around.turns))
    wanted = block.norm2(middle + block.feedforward.mlp(middle))
    assert_close(trunk(tokens, DRAW).latents, wanted, rtol=0, atol=1e-6)


def test_the_last_norm_is_the_last_blocks_own(post_of):
    names = dict(post_of(norm_entry=True).named_parameters())
    assert not any(name.startswith("norm.") for name in names)
    assert {"entry.weight", "blocks.2.norm2.weight"} <= names.keys()


def test_inner_states_are_what_blocks_give_and_what_their_feedforwards_add(post_of):
    trunk, tokens = post_of(), tokens_of()
    output = trunk(tokens, DRAW, layers=(1, 2, 3))
    assert torch.equal(output.inner[3].x, output.latents)
    assert torch.equal(output.latents, trunk(tokens, DRAW).latents)
    first, around = output.inner[1].x, trunk.surroundings(tokens, DRAW)
    middle, change, _ = trunk.blocks[1].apart(first, around)
    assert torch.equal(output.inner[2].change, change)
    assert_close(change, trunk.blocks[1].feedforward.mlp(middle), rtol=0, atol=1e-6)
    assert torch.equal(output.inner[2].x, trunk.blocks[1].norm2(middle + change))


def test_a_row_that_skips_both_branches_of_a_block_is_only_normalised(post_of):
    trunk, tokens = post_of(depth=2, drop_path=0.9999).train(), tokens_of()
    inner = trunk(tokens, DRAW, layers=(1, 2)).inner
    block = trunk.blocks[1]
    assert_close(inner[2].x, block.norm2(block.norm1(inner[1].x)), rtol=0, atol=1e-5)


def test_checkpointing_and_asking_for_inner_states_change_no_gradient(post_of):
    plain, saving = (post_of(checkpointing=on, drop_path=0.3).train() for on in (False, True))
    tokens = tokens_of(valid=torch.arange(12) < torch.tensor([[12], [9], [6], [0], [11], [12]]))
    for mine, theirs in zip(gradients(saving, tokens)[1], gradients(plain, tokens)[1], strict=True):
        assert_close(mine, theirs, rtol=0, atol=1e-6)
