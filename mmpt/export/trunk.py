"""What every export asks of a backbone: one stream, the shape of its trunk, and weights under other names."""

from collections.abc import Mapping
from typing import NamedTuple, cast

from jaxtyping import Float
from torch import Tensor, nn

from mmpt.encoders import Encoder
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.trunk import Trunk
from mmpt.trunk.feedforward.dense import DenseFeedForward
from mmpt.trunk.transformer import Block, Norm, Transformer


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
            raise ConfigError(f"only a dense feed-forward can be exported, this trunk has {kind}; use dense")
    widths = [cast("DenseFeedForward", block.feedforward).mlp.fc1.out_features for block in blocks]
    if len(set(widths)) > 1:
        found = ", ".join(map(str, widths))
        raise ConfigError(f"only feed-forwards of one width can be exported, those of this trunk are {found} wide")
    inner, heads = widths[0], blocks[0].attention.heads
    eps, norm_entry = blocks[0].norm1.eps, isinstance(trunk.entry, nn.LayerNorm)
    return TrunkShape(trunk.width, len(blocks), heads, cast("int", inner), eps, norm_entry)


def renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights that `names` lists, under their new names; raises ConfigError for one that is missing."""
    missing = [name for name in names if name not in weights]
    if missing:
        raise ConfigError(f"the model has no weights '{missing[0]}'; it is of another shape or kind")
    return {new: weights[old] for old, new in names.items()}


def split_attention(weights: Mapping[str, Tensor], theirs: str, parts: tuple[str, str, str]) -> dict[str, Tensor]:
    """Queries, keys and values of every block apart, under names like `theirs` with number, part and kind."""
    split = {}
    for name in weights:
        if ".attention.qkv." in name:
            number, kind = name.split(".")[2], name.rpartition(".")[2]
            thirds = zip(parts, weights[name].chunk(3), strict=True)
            split |= {theirs.format(number=number, part=part, kind=kind): value for part, value in thirds}
    return split


def constant_row(difference: Float[Tensor, "N D"], peer: str) -> Float[Tensor, " D"]:
    """The one row that learned positions differ by from a fixed table; raises ConfigError where there are several."""
    row = difference.mean(0)
    if (difference - row).abs().max() > 1e-5:
        raise ConfigError(f"{peer} has positions of its own, this stream a fixed table; set positions=learned")
    return row
