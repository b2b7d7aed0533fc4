"""timm's VisionTransformer: the name of an architecture and a state dict, a folder of its hub, or of `mmpt export`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mmpt.encoders import Facts
from mmpt.errors import ConfigError
from mmpt.foreign import Family
from mmpt.foreign.entries import TABLE, VECTOR, Entry, block_layers, layers, patches
from mmpt.foreign.pixels import HALF, three
from mmpt.foreign.trunks import trunk_of
from mmpt.foreign.vit import ENCODER

BLOCK = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.proj": "attn.proj",
    "norm2": "norm2",
    "feedforward.mlp.fc1": "mlp.fc1",
    "feedforward.mlp.fc2": "mlp.fc2",
}
TIMM_NEEDS = {
    **{"width": None, "depth": None, "heads": None, "hidden": None, "norm_eps": 1e-6},
    **{"size": None, "patch": None, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
}


class Timm(Family):
    """A plain VisionTransformer: a class token, learned positions and a norm behind the blocks."""

    kind = "VisionTransformer of timm"
    modality = "image"
    needs = TIMM_NEEDS
    only = MappingProxyType({})
    inside = ()
    left = ("head.", "fc_norm.")

    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """Mean and standard deviation of pixels."""
        return Facts(folder, {}, {name: tuple(self.settings[name]) for name in ("mean", "std")}), ()

    def stream(self, facts: Facts) -> dict[str, Any]:
        """Square pictures."""
        return {"size": self.settings["size"], "patch": self.settings["patch"], "positions": "learned"}

    def trunk(self) -> dict[str, Any]:
        """Pre-norm."""
        names = ("width", "depth", "heads", "hidden", "norm_eps")
        return trunk_of(**{name: self.settings[name] for name in names}, norm="pre", norm_entry=False)

    def entries(self, facts: Facts) -> list[Entry]:
        """All weights but a classifier's."""
        first, *bias = layers(f"{ENCODER}projection", "patch_embed.proj", patches(self.settings["patch"]))
        return [
            Entry(f"{ENCODER}class_token", ("cls_token",), VECTOR),
            Entry(f"{ENCODER}position", ("pos_embed",), TABLE),
            first,
            *bias,
            *block_layers(self.settings["depth"], "blocks.{number}.", BLOCK),
            *layers("backbone.trunk.norm", "norm"),
        ]

    def objective_entries(self, facts: Facts) -> list[Entry]:
        """None."""
        return []


def of_architecture(name: str, **arguments: Any) -> dict[str, Any]:
    """What `Timm` needs to know of one of timm's architectures; raises ConfigError for one that is no plain ViT."""
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise ConfigError(f"{name}: timm has no such architecture; see timm.list_models('vit_*')")
    model: Any = timm.create_model(name, pretrained=False, **arguments)
    return of_model(model, name, model.pretrained_cfg)


def of_export(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same of the config.json that `mmpt export --to timm` writes."""
    from timm.models.vision_transformer import VisionTransformer

    try:
        norm: Any = partial(nn.LayerNorm, eps=told["norm_eps"])
        return of_model(VisionTransformer(**told["model"], norm_layer=norm), where, told["pretrained_cfg"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{where}: not what 'mmpt export --to timm' writes ({error})") from error


def of_model(model: Any, name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """What weights alone don't tell, of the model of timm."""
    from timm.models.vision_transformer import Block, VisionTransformer

    if not isinstance(model, VisionTransformer) or not all(type(block) is Block for block in model.blocks):
        raise ConfigError(
            f"{name}: is a {type(model).__name__} of timm, and only a plain VisionTransformer can be loaded"
        )
    block: Any = model.blocks[0]
    size, patch = model.patch_embed.img_size, model.patch_embed.patch_size
    act, norm = block.mlp.act, block.norm1
    if not isinstance(act, nn.GELU) or act.approximate != "none" or not isinstance(norm, nn.LayerNorm):
        raise ConfigError(
            f"{name}: has {type(act).__name__} and {type(norm).__name__}, and a trunk has the exact GELU and LayerNorm"
        )
    if size[0] != size[1] or patch[0] != patch[1]:
        raise ConfigError(f"{name}: an image stream is square, and this has pictures of {size} and patches of {patch}")
    return {
        "width": model.embed_dim,
        "depth": len(model.blocks),
        "heads": block.attn.num_heads,
        "hidden": block.mlp.fc1.out_features,
        "norm_eps": norm.eps,
        "size": size[0],
        "patch": patch[0],
        **dict(zip(("mean", "std"), HALF, strict=True)),
        **pixels_of(told, name),
    }


def pixels_of(told: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Mean and standard deviation, as far as a `pretrained_cfg` says them."""
    return {name: three(told[name], where) for name in ("mean", "std") if name in told}


def size_of(weights: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the size that the table of positions is for, which may not be the architecture's usual one."""
    table = weights.get("pos_embed")
    if table is None or table.dim() != 3:
        return dict(settings)
    side = round(max(table.shape[1] - 1, 0) ** 0.5)
    is_grid = side > 0 and side**2 + 1 == table.shape[1]
    return {**settings, "size": side * settings["patch"]} if is_grid else dict(settings)
