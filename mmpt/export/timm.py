"""An image-only backbone as timm's VisionTransformer, and back.

timm takes normalised pixels (B, 3, H, W) where our encoder takes bytes and holds mean and standard deviation itself:
`timm_pixels` makes the one from the other, and the model's `pretrained_cfg` names both, so that timm's own transforms
(`timm.data.resolve_model_data_config`) normalise alike. What timm has one table for, we keep apart: positions and the
stream's embedding are added up in `pos_embed`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mmpt.build import load_weights
from mmpt.encoders.image import ImageEncoder, normalise
from mmpt.errors import ConfigError
from mmpt.export.trunk import TrunkShape, constant_row, only_stream, renamed, trunk_shape
from mmpt.model import Backbone

BLOCK = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.proj": "attn.proj",
    "norm2": "norm2",
    "feedforward.mlp.fc1": "mlp.fc1",
    "feedforward.mlp.fc2": "mlp.fc2",
}


def to_timm(backbone: Backbone) -> VisionTransformer:
    """The model of timm with these weights; `forward_features` gives our latents, class token first."""
    stream, encoder, shape = _image_only(backbone)
    channels, size = 3, encoder.side * _patch(encoder)
    peer = VisionTransformer(
        img_size=size,
        patch_size=_patch(encoder),
        in_chans=channels,
        num_classes=0,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=(shape.feedforward + 0.5) / shape.width,  # timm rounds down
        norm_layer=partial(nn.LayerNorm, eps=shape.eps),
    )
    peer.load_state_dict(timm_weights(backbone.state_dict(), stream, _fixed(encoder)))
    numbers = {"mean": tuple(encoder.mean.tolist()), "std": tuple(encoder.std.tolist())}
    settings = {"input_size": (channels, size, size), "interpolation": "bicubic", "crop_pct": 1.0, **numbers}
    peer.pretrained_cfg = cast("Any", settings)  # an attribute like any other, but nn.Module's stubs know tensors only
    return peer.eval()


def from_timm(backbone: Backbone, peer: VisionTransformer) -> None:
    """Load timm's weights; raises ConfigError for a model that a backbone of this shape can't be."""
    heads, eps = cast("Attention", peer.blocks[0].attn).num_heads, cast("nn.LayerNorm", peer.norm).eps
    fill(backbone, peer.state_dict(), heads, eps, "timm")


def fill(backbone: Backbone, weights: Mapping[str, Tensor], heads: int, eps: float, library: str) -> None:
    """Load weights under timm's names, of a model of `library` with these heads and norm_eps.

    Raises:
        ConfigError: a model that a backbone of this shape can't be.
        CheckpointError: weights of another shape.
    """
    stream, encoder, shape = _image_only(backbone)
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    if (depth, heads, eps) != (shape.depth, shape.heads, shape.eps):
        raise ConfigError(
            f"the {library} model has {depth} blocks, {heads} heads and norm_eps {eps}, this trunk {shape.depth}, "
            f"{shape.heads} and {shape.eps}; set trunk.depth, trunk.heads and trunk.norm_eps to the model's"
        )
    load_weights(backbone, backbone_weights(weights, backbone.state_dict(), stream, _fixed(encoder), library))


def timm_weights(
    weights: Mapping[str, Tensor], stream: str, fixed: Float[Tensor, "N D"] | None = None
) -> dict[str, Tensor]:
    """From ours to timm's.

    Args:
        weights: a backbone's state dict.
        stream: the name of its one stream.
        fixed: its position table where that is not learned, for then no state dict holds it.
    """
    own = f"encoders.{stream}."
    position = weights[own + "position"] if fixed is None else fixed
    return {
        "cls_token": weights[own + "class_token"].view(1, 1, -1),
        "pos_embed": (position + weights["trunk.stream_embedding.weight"]).unsqueeze(0),
        "patch_embed.proj.weight": _convolution(weights[own + "projection.weight"]),
        "patch_embed.proj.bias": weights[own + "projection.bias"],
        **renamed(weights, _trunk_names(weights)),
    }


def backbone_weights(
    peer: Mapping[str, Tensor],
    like: Mapping[str, Tensor],
    stream: str,
    fixed: Float[Tensor, "N D"] | None,
    library: str,
) -> dict[str, Tensor]:
    """From timm's to ours; a classifier's head is left out.

    Args:
        peer: a VisionTransformer's state dict.
        like: the state dict of the backbone to fill, for the mean and standard deviation that timm does not hold.
        stream: the name of its one stream.
        fixed: its position table where that is not learned; timm's has to be the same but for one row added to all.
        library: whose model it was, for messages.
    """
    own, positions = f"encoders.{stream}.", peer["pos_embed"][0]
    names = _trunk_names(like)
    known = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", *names.values()}
    unknown = [name for name in peer if name not in known and not name.startswith("head.")]
    if unknown:
        raise ConfigError(f"the {library} model has weights '{unknown[0]}', which a backbone has no place for")
    class_token = peer["cls_token"].flatten()
    row = torch.zeros_like(class_token)
    if fixed is not None:
        row = constant_row(positions[1:] - fixed[1:], f"the {library} model")
        class_token = class_token + positions[0] - fixed[0] - row
    return {
        **like,
        **({own + "position": positions} if fixed is None else {}),
        own + "class_token": class_token,
        own + "projection.weight": peer["patch_embed.proj.weight"].permute(0, 2, 3, 1).flatten(1),
        own + "projection.bias": peer["patch_embed.proj.bias"],
        "trunk.stream_embedding.weight": row.unsqueeze(0),
        **renamed(peer, {theirs: ours for ours, theirs in names.items()}),
    }


def timm_pixels(
    patches: UInt8[Tensor, "B N P"], mean: Float[Tensor, " 3"], std: Float[Tensor, " 3"]
) -> Float[Tensor, "B 3 size size"]:
    """An image stream's values, class token's place included -> what timm takes."""
    side, patch = round((patches.shape[1] - 1) ** 0.5), round((patches.shape[2] / 3) ** 0.5)
    grid = normalise(patches[:, 1:], mean, std).unflatten(2, (patch, patch, 3)).unflatten(1, (side, side))
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, side * patch, side * patch)


def _image_only(backbone: Backbone) -> tuple[str, ImageEncoder, TrunkShape]:
    stream, encoder = only_stream(backbone, "timm's VisionTransformer")
    if not isinstance(encoder, ImageEncoder):
        raise ConfigError(f"timm's VisionTransformer takes images; stream '{stream}' is none")
    shape = trunk_shape(backbone.trunk)
    if shape.norm_entry:
        raise ConfigError("timm's VisionTransformer has no norm before its blocks; train with trunk.norm_entry=false")
    return stream, encoder, shape


def _patch(encoder: ImageEncoder) -> int:
    return round((encoder.projection.in_features / 3) ** 0.5)


def _fixed(encoder: ImageEncoder) -> Tensor | None:
    return None if encoder.learned else encoder.position


def _convolution(matrix: Float[Tensor, "D P"]) -> Float[Tensor, "D 3 patch patch"]:
    """Our patches are by row, column, channel; a convolution's are by channel, row, column."""
    patch = round((matrix.shape[1] / 3) ** 0.5)
    return matrix.unflatten(1, (patch, patch, 3)).permute(0, 3, 1, 2).contiguous()


def _trunk_names(weights: Mapping[str, Tensor]) -> dict[str, str]:
    names = {f"trunk.norm.{kind}": f"norm.{kind}" for kind in ("weight", "bias")}
    for name in weights:
        if name.startswith("trunk.blocks."):
            number, _, rest = name.removeprefix("trunk.blocks.").partition(".")
            part, _, kind = rest.rpartition(".")
            names[name] = f"blocks.{number}.{BLOCK[part]}.{kind}"
    return names
