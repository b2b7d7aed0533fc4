"""What every export asks of a backbone: one stream, the shape of its trunk, weights as `mmpt.foreign` names them."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mmpt.encoders import Encoder
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.trunk import Trunk
from mmpt.trunk.feedforward.dense import DenseFeedForward
from mmpt.trunk.transformer import Block, Norm, Transformer

STREAM = "backbone.trunk.stream_embedding.weight"  # which many libraries have no place for


class TrunkShape(NamedTuple):
    """Numbers that another library builds the same trunk from."""

    width: int
    depth: int
    heads: int
    feedforward: int
    eps: float
    norm_entry: bool


def only_stream(backbone: Backbone, peer: str) -> tuple[str, Encoder]:
    """The one stream of a backbone and its encoder."""
    if len(backbone.encoders) != 1:
        raise ConfigError(f"{peer} has one stream, this backbone has {', '.join(backbone.encoders)}")
    ((name, encoder),) = backbone.encoders.items()
    return name, cast("Encoder", encoder)


def trunk_shape(trunk: Trunk, *, norm: Norm = "pre") -> TrunkShape:
    """Raises ConfigError for a trunk that other libraries don't have, or whose norms stand elsewhere than `norm`."""
    if not isinstance(trunk, Transformer) or len(trunk.blocks) == 0:
        raise ConfigError(f"only a transformer trunk with blocks can be exported, this one is {type(trunk).__name__}")
    blocks = [cast("Block", block) for block in trunk.blocks]
    if blocks[0].norm != norm:
        raise ConfigError(f"the other library's model is {norm}-norm, this trunk has trunk.norm={blocks[0].norm}")
    for block in blocks:
        if not isinstance(block.feedforward, DenseFeedForward):
            kind = type(block.feedforward).__name__
            raise ConfigError(
                f"only a dense feed-forward can be exported, this trunk has {kind}; onnx and safetensors take it"
            )
    widths = [cast("DenseFeedForward", block.feedforward).mlp.fc1.out_features for block in blocks]
    if len(set(widths)) > 1:
        found = ", ".join(map(str, widths))
        raise ConfigError(f"only feed-forwards of one width can be exported, those of this trunk are {found} wide")
    inner, heads = widths[0], blocks[0].attention.heads
    eps, norm_entry = blocks[0].norm1.eps, has_norm_entry(trunk)
    return TrunkShape(trunk.width, len(blocks), heads, cast("int", inner), eps, norm_entry)


def is_post_norm(trunk: Trunk) -> bool:
    """Whether blocks normalise what they give and not what they take, so that no norm stands behind the last."""
    return isinstance(trunk, Transformer) and not isinstance(trunk.norm, nn.LayerNorm)


def has_norm_entry(trunk: Trunk) -> bool:
    """Whether what enters the first block is normalised."""
    return isinstance(trunk, Transformer) and isinstance(trunk.entry, nn.LayerNorm)


def sizes(shape: TrunkShape) -> dict[str, int]:
    """As the encoders of transformers name them."""
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feedforward,
    }


def foreign_weights(backbone: Backbone, stream: str, modality: str) -> dict[str, Tensor]:
    """Weights of a backbone of this stream alone, under the names that `mmpt.foreign` has for the modality's models."""
    own = f"encoders.{stream}."
    weights = {name.replace(own, f"encoders.{modality}.", 1): value for name, value in backbone.state_dict().items()}
    return {f"backbone.{name}": value.detach().to(torch.float32) for name, value in weights.items()}
