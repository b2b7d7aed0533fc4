"""An image-only backbone as transformers' ViTModel, by way of timm's."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from mmpt.export.timm import to_timm
from mmpt.model import Backbone

BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
WHOLE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def to_vit(backbone: Backbone) -> tuple[ViTModel, ViTImageProcessor]:
    """The model, whose `last_hidden_state` is our latents, class token first, and what makes its pixels."""
    peer: Any = to_timm(backbone)  # whose stubs take every attribute for a tensor
    block, size = peer.blocks[0], peer.patch_embed.img_size[0]
    model = ViTModel(
        ViTConfig(
            hidden_size=peer.embed_dim,
            num_hidden_layers=len(peer.blocks),
            num_attention_heads=block.attn.num_heads,
            intermediate_size=block.mlp.fc1.out_features,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            layer_norm_eps=peer.norm.eps,
            image_size=size,
            patch_size=peer.patch_embed.patch_size[0],
            num_channels=3,
            qkv_bias=True,
        ),
        add_pooling_layer=False,
    )
    model.load_state_dict(vit_weights(peer))
    mean, std = (list(peer.pretrained_cfg[name]) for name in ("mean", "std"))
    edges = {"height": size, "width": size}
    return model.eval(), ViTImageProcessor(size=edges, resample=3, image_mean=mean, image_std=std)


def vit_weights(peer: VisionTransformer) -> dict[str, Tensor]:
    """From timm's names to transformers'; queries, keys and values apart."""
    weights: dict[str, Tensor] = {}
    for name, value in peer.state_dict().items():
        if not name.startswith("blocks."):
            weights[WHOLE[name]] = value
            continue
        number, _, rest = name.removeprefix("blocks.").partition(".")
        part, _, kind = rest.rpartition(".")
        if part == "attn.qkv":
            for own, third in zip("qkv", value.chunk(3), strict=True):
                weights[f"layers.{number}.attention.{own}_proj.{kind}"] = third
        else:
            weights[f"layers.{number}.{BLOCK[part]}.{kind}"] = value
    return weights
