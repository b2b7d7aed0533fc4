"""A norm's scale and shift as part of the linear layers behind it: W' = W diag(scale), b' = b + W shift."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from mmpt.errors import ConfigError
from mmpt.trunk import Trunk
from mmpt.trunk.feedforward.dense import DenseFeedForward
from mmpt.trunk.feedforward.modality_experts import ModalityExperts
from mmpt.trunk.mlp import Mlp
from mmpt.trunk.transformer import Block

Foldable = tuple[nn.LayerNorm, list[nn.Linear]]


def foldable(trunk: Trunk) -> list[Foldable]:
    """The norms of all blocks, with what alone looks at them; raises ConfigError where other parts look, too."""
    found: list[Foldable] = []
    for block in getattr(trunk, "blocks", []):
        if not isinstance(block, Block) or block.norm != "pre":
            raise ConfigError("fold: needs blocks whose norms stand in front of a branch (norm: pre)")
        found += [(block.norm1, [block.attention.qkv]), (block.norm2, _first_layers(block.feedforward))]
    return found


def _first_layers(feedforward: nn.Module) -> list[nn.Linear]:
    if isinstance(feedforward, DenseFeedForward):
        return [feedforward.mlp.fc1]
    if isinstance(feedforward, ModalityExperts):
        return [cast("Mlp", expert).fc1 for expert in feedforward.experts]
    raise ConfigError(
        f"fold: {type(feedforward).__name__} does more with a norm's output than one linear map; leave it out"
    )


@torch.no_grad()
def fold(norms: Sequence[Foldable]) -> None:
    """Norms are left with scales of 1 and shifts of 0; what comes behind the linear layers is the same."""
    for norm, layers in norms:
        for layer in layers:
            layer.bias.add_(layer.weight @ norm.bias)
            layer.weight.mul_(norm.weight)
        norm.weight.fill_(1.0)
        norm.bias.zero_()
