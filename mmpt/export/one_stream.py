"""The part of a backbone that one stream goes through alone: a backbone of its own."""

from collections.abc import Mapping
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.trunk.feedforward.dense import DenseFeedForward
from mmpt.trunk.feedforward.modality_experts import ModalityExperts
from mmpt.trunk.feedforward.routed_experts import RoutedExperts
from mmpt.trunk.mlp import Mlp
from mmpt.trunk.transformer import Block, Transformer


def one_stream(backbone: Backbone, modalities: Mapping[str, Modality], stream: str) -> Backbone:
    """A copy that gives the same latents for samples of that stream alone.

    Where every stream has a feed-forward of its own, the stream's is the dense one of the copy. Experts that a gate
    chooses stay, with the vector of that stream.
    """
    if stream not in backbone.encoders:
        raise ConfigError(f"the run has no stream '{stream}'; it has {', '.join(backbone.encoders)}")
    if not isinstance(backbone.trunk, Transformer):
        raise ConfigError(f"only a transformer trunk can be exported, this one is {type(backbone.trunk).__name__}")
    number, trunk = backbone.numbers[stream], deepcopy(backbone.trunk)
    trunk.stream_embedding = _only_row(trunk.stream_embedding, number)
    for block in trunk.blocks:
        experts = cast("Block", block).feedforward
        if isinstance(experts, ModalityExperts):
            dense = DenseFeedForward(trunk.width)
            dense.mlp = cast("Mlp", experts.experts[number])
            block.feedforward = dense
        elif isinstance(experts, RoutedExperts):
            experts.streams = 1
            if experts.stream_vector is not None:
                experts.stream_vector = _only_row(experts.stream_vector, number)
    with torch.random.fork_rng(devices=[]):
        alone = Backbone({stream: modalities[stream]}, trunk)
    alone.encoders[stream] = deepcopy(backbone.encoders[stream])
    return alone.eval()


def _only_row(table: nn.Module, number: int) -> nn.Embedding:
    row = cast("Tensor", table.weight)[number : number + 1].detach().clone()
    return nn.Embedding.from_pretrained(row, freeze=False)
