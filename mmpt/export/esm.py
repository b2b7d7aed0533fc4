"""A text-only backbone without a norm before its blocks as transformers' EsmModel, which is this very architecture.

ESM is known for proteins, but the class is a plain pre-norm encoder with learned positions and any vocabulary. It has
no embedding of the modality: the stream's is added to the positions.
"""

import torch
from transformers import EsmConfig, EsmModel

from mmpt.encoders.text import Text, TextEncoder
from mmpt.errors import ConfigError
from mmpt.export.trunk import TrunkShape, only_stream, renamed, split_attention, trunk_shape
from mmpt.model import Backbone

BLOCK = {
    "norm1": "attention.LayerNorm",
    "attention.proj": "attention.output.dense",
    "norm2": "LayerNorm",
    "feedforward.mlp.fc1": "intermediate.dense",
    "feedforward.mlp.fc2": "output.dense",
}


def to_esm(backbone: Backbone, text: Text) -> EsmModel:
    """The encoder alone; its `last_hidden_state` is our latents."""
    stream, encoder = only_stream(backbone, "EsmModel")
    if not isinstance(encoder, TextEncoder):
        raise ConfigError(f"EsmModel takes text; stream '{stream}' is none")
    if encoder.positions == "rotary":
        raise ConfigError("transformers' rotary positions turn other pairs of numbers; train with positions=learned")
    shape = trunk_shape(backbone.trunk)
    if shape.norm_entry:
        raise ConfigError("a trunk with norm_entry is a RobertaPreLayerNorm, not an EsmModel")
    pad, weights = text.special("pad"), backbone.state_dict()
    position = weights[f"encoders.{stream}.place_embedding.weight"] if encoder.positions == "learned" else encoder.table
    position = position + weights["trunk.stream_embedding.weight"]
    peer = EsmModel(_config(text, shape), add_pooling_layer=False)
    names = {f"trunk.norm.{kind}": f"encoder.emb_layer_norm_after.{kind}" for kind in ("weight", "bias")}
    for name in weights:
        if name.startswith("trunk.blocks.") and ".attention.qkv." not in name:
            number, _, rest = name.removeprefix("trunk.blocks.").partition(".")
            part, _, kind = rest.rpartition(".")
            names[name] = f"encoder.layer.{number}.{BLOCK[part]}.{kind}"
    theirs = "encoder.layer.{number}.attention.self.{part}.{kind}"
    heads = {name: torch.zeros_like(value) for name, value in peer.state_dict().items() if "contact_head" in name}
    peer.load_state_dict(
        {
            "embeddings.word_embeddings.weight": weights[f"encoders.{stream}.embedding.weight"],
            "embeddings.position_embeddings.weight": torch.cat(
                [position.new_zeros(pad + 1, position.shape[1]), position]
            ),
            **renamed(weights, names),
            **split_attention(weights, theirs, ("query", "key", "value")),
            **heads,  # of a task on proteins
        },
        strict=True,
    )
    return peer.eval()


def _config(text: Text, shape: TrunkShape) -> EsmConfig:
    pad = text.special("pad")
    return EsmConfig(
        vocab_size=text.vocabulary,
        mask_token_id=text.special("mask"),
        pad_token_id=pad,
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feedforward,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=pad + 1 + text.max_length,
        layer_norm_eps=shape.eps,
        position_embedding_type="absolute",
        emb_layer_norm_before=False,
        token_dropout=False,
    )
