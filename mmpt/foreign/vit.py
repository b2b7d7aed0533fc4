"""ViT (Dosovitskiy et al. 2020) as transformers has it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpt.encoders import Facts
from mmpt.foreign import Family
from mmpt.foreign.entries import TABLE, VECTOR, Entry, block_layers, layers, patches
from mmpt.foreign.pixels import HALF, pixel_facts, square
from mmpt.foreign.trunks import trunk_settings

BLOCK = {
    "norm1": "layernorm_before",
    "attention.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "feedforward.mlp.fc1": "intermediate.dense",
    "feedforward.mlp.fc2": "output.dense",
}
ENCODER = "backbone.encoders.image."
VIT_NEEDS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
}
VIT_ONLY = {"hidden_act": "gelu", "num_channels": 3, "qkv_bias": True}


class ViT(Family):
    """`ViTModel` and all models around it."""

    kind = "ViT"
    modality = "image"
    needs = VIT_NEEDS
    only = VIT_ONLY
    inside = ("vit.",)
    left = ("pooler.", "embeddings.mask_token")
    pixels = HALF  # mean and standard deviation where no file says them

    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """Mean and standard deviation of pixels."""
        return pixel_facts(folder, self.pixels)

    def stream(self, facts: Facts) -> dict[str, Any]:
        """Square pictures."""
        return {
            "size": square(self.settings["image_size"], "image_size"),
            "patch": square(self.settings["patch_size"], "patch_size"),
            "positions": "learned",
        }

    def trunk(self) -> dict[str, Any]:
        """Pre-norm."""
        return trunk_settings(self.settings, norm="pre", norm_entry=False)

    def entries(self, facts: Facts) -> list[Entry]:
        """The encoder's, as files name them; in memory newer versions of transformers have other names."""
        patch = square(self.settings["patch_size"], "patch_size")
        first, *bias = layers(f"{ENCODER}projection", "embeddings.patch_embeddings.projection", patches(patch))
        return [
            Entry(f"{ENCODER}class_token", ("embeddings.cls_token",), VECTOR),
            Entry(f"{ENCODER}position", ("embeddings.position_embeddings",), TABLE),
            first,
            *bias,
            *block_layers(self.settings["num_hidden_layers"], "encoder.layer.{number}.", BLOCK),
            *layers("backbone.trunk.norm", "layernorm"),
        ]

    def objective_entries(self, facts: Facts) -> list[Entry]:
        """None: a classifier or decoder is left behind."""
        return []
