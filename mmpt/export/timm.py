"""An image-only backbone as timm's VisionTransformer.

timm takes normalised pixels (B, 3, H, W) where our encoder takes bytes and holds mean and standard deviation itself:
`timm_pixels` makes the one from the other, and the model's `pretrained_cfg` names both, so that timm's own transforms
(`timm.data.resolve_model_data_config`) normalise alike. What timm has one table for, we keep apart: positions and the
stream's embedding are added up in `pos_embed`.
"""

from functools import partial
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float, UInt8
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mmpt.encoders import Facts
from mmpt.encoders.image import ImageEncoder, normalise
from mmpt.errors import ConfigError
from mmpt.export.trunk import STREAM, TrunkShape, foreign_weights, only_stream, trunk_shape
from mmpt.foreign.entries import given
from mmpt.foreign.timm import Timm
from mmpt.foreign.vit import ENCODER
from mmpt.model import Backbone


def to_timm(backbone: Backbone) -> VisionTransformer:
    """The model of timm with these weights; `forward_features` gives our latents, class token first."""
    stream, encoder, shape = _image_only(backbone)
    patch = round((encoder.projection.in_features / 3) ** 0.5)
    channels, size = 3, encoder.side * patch
    peer = VisionTransformer(
        img_size=size,
        patch_size=patch,
        in_chans=channels,
        num_classes=0,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=(shape.feedforward + 0.5) / shape.width,  # timm rounds down
        norm_layer=partial(nn.LayerNorm, eps=shape.eps),
    )
    weights = foreign_weights(backbone, stream, "image")
    weights[f"{ENCODER}position"] = encoder.position + weights.pop(STREAM)  # a fixed table stands in no state dict
    entries = Timm({"depth": shape.depth, "patch": patch}).entries(Facts(Path()))
    peer.load_state_dict(given(entries, weights))
    numbers = {"mean": tuple(encoder.mean.tolist()), "std": tuple(encoder.std.tolist())}
    settings = {"input_size": (channels, size, size), "interpolation": "bicubic", "crop_pct": 1.0, **numbers}
    peer.pretrained_cfg = cast("Any", settings)  # an attribute like any other, but nn.Module's stubs know tensors only
    return peer.eval()


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
