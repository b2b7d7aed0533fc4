"""A text-only backbone as transformers' RobertaPreLayerNorm, with or without its masked-language-model head, and back.

The trunk's `norm_entry` is its embedding LayerNorm, the stream's embedding its `token_type_embeddings`, and its
position ids begin behind the id of padding. Corruption shows a learned vector where transformers shows the embedding
of <mask>: the vector becomes that row of the table. The head's table keeps our row, so the model is exported untied.
"""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM, RobertaPreLayerNormModel

from mmpt.build import load_weights
from mmpt.encoders.text import Text, TextEncoder
from mmpt.errors import ConfigError
from mmpt.export.trunk import TrunkShape, constant_row, only_stream, renamed, split_attention, trunk_shape
from mmpt.model import Backbone, MaskedModel
from mmpt.objectives.corruption.replace import ReplaceCorruption
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.predictors.tied import TiedPredictor
from mmpt.objectives.stream_objective import StreamObjective

BODY = "roberta_prelayernorm."
HEAD = {"dense": "lm_head.dense", "norm": "lm_head.layer_norm"}
BLOCK = {
    "norm1": "attention.LayerNorm",
    "attention.proj": "attention.output.dense",
    "norm2": "intermediate.LayerNorm",
    "feedforward.mlp.fc1": "intermediate.dense",
    "feedforward.mlp.fc2": "output.dense",
}
KINDS = ("weight", "bias")


def to_roberta(backbone: Backbone, text: Text) -> RobertaPreLayerNormModel:
    """The encoder alone; its `last_hidden_state` is our latents."""
    stream, encoder, shape = _text_only(backbone)
    peer = RobertaPreLayerNormModel(_config(shape, text, tied=True), add_pooling_layer=False)
    weights = roberta_weights(backbone.state_dict(), stream, text.special("pad"), _fixed(encoder))
    peer.load_state_dict(weights)
    return peer.eval()


def to_roberta_mlm(model: MaskedModel, text: Text) -> RobertaPreLayerNormForMaskedLM:
    """Encoder and head; hidden tokens are shown to it as <mask>."""
    stream, encoder, shape = _text_only(model.backbone)
    part = _masked_text(model, stream, shape)
    peer = RobertaPreLayerNormForMaskedLM(_config(shape, text, tied=False))
    body = roberta_weights(model.backbone.state_dict(), stream, text.special("pad"), _fixed(encoder))
    vector = cast("ReplaceCorruption", part.corruption).vector
    head = {name: value for name, value in part.predictor.state_dict().items() if name != "table"}
    peer.load_state_dict(mlm_weights(body, head, vector, text.special("mask")))
    return peer.eval()


def from_roberta(backbone: Backbone, text: Text, peer: RobertaPreLayerNormModel) -> None:
    """Load the encoder's weights; raises ConfigError for a model that a backbone of this shape can't be."""
    stream, encoder, shape = _text_only(backbone)
    _check_config(peer.config, shape, text)
    like, weights = backbone.state_dict(), peer.state_dict()
    load_weights(backbone, backbone_weights(weights, like, stream, text.special("pad"), _fixed(encoder)))


def from_roberta_mlm(model: MaskedModel, text: Text, peer: RobertaPreLayerNormForMaskedLM) -> None:
    """Load encoder, head, and the vector that stands for <mask>."""
    stream, encoder, shape = _text_only(model.backbone)
    part = _masked_text(model, stream, shape)
    _check_config(peer.config, shape, text)
    body, head, vector = split_mlm_weights(peer.state_dict(), text.special("mask"))
    like = model.backbone.state_dict()
    load_weights(model.backbone, backbone_weights(body, like, stream, text.special("pad"), _fixed(encoder)))
    load_weights(part.predictor, {**head, "table": body["embeddings.word_embeddings.weight"]})
    load_weights(part.corruption, {"vector": vector})


def roberta_weights(
    weights: Mapping[str, Tensor], stream: str, pad: int, fixed: Float[Tensor, "N D"] | None = None
) -> dict[str, Tensor]:
    """From ours to RobertaPreLayerNormModel's.

    Args:
        weights: a backbone's state dict.
        stream: the name of its one stream.
        pad: the id of padding: rows 0..pad of the peer's positions are never used.
        fixed: our position table where it is not learned.
    """
    position = weights[f"encoders.{stream}.place_embedding.weight"] if fixed is None else fixed
    theirs = "encoder.layer.{number}.attention.self.{part}.{kind}"
    return {
        "embeddings.word_embeddings.weight": weights[f"encoders.{stream}.embedding.weight"],
        "embeddings.token_type_embeddings.weight": weights["trunk.stream_embedding.weight"],
        "embeddings.position_embeddings.weight": torch.cat([position.new_zeros(pad + 1, position.shape[1]), position]),
        **renamed(weights, _trunk_names(weights)),
        **split_attention(weights, theirs, ("query", "key", "value")),
    }


def backbone_weights(
    peer: Mapping[str, Tensor],
    like: Mapping[str, Tensor],
    stream: str,
    pad: int,
    fixed: Float[Tensor, "N D"] | None = None,
) -> dict[str, Tensor]:
    """From RobertaPreLayerNormModel's to ours; a pooler is left out.

    Args:
        peer: the model's state dict.
        like: the state dict of the backbone to fill.
        stream: the name of its one stream.
        pad: the id of padding.
        fixed: our position table where it is not learned; the peer's has to be the same but for one row added to all.
    """
    position = peer["embeddings.position_embeddings.weight"][pad + 1 :]
    row = peer["embeddings.token_type_embeddings.weight"]
    if len(row) != 1:
        raise ConfigError(f"the transformers model has {len(row)} token types, a text stream has 1; give it one row")
    if fixed is not None:
        row = row + constant_row(position - fixed, "the transformers model")
    joined = {}
    for name in like:
        if ".attention.qkv." in name:
            number, kind = name.split(".")[2], name.rpartition(".")[2]
            theirs = [f"encoder.layer.{number}.attention.self.{part}.{kind}" for part in ("query", "key", "value")]
            joined[name] = torch.cat(list(renamed(peer, {name: name for name in theirs}).values()))
    return {
        **like,
        f"encoders.{stream}.embedding.weight": peer["embeddings.word_embeddings.weight"],
        **({f"encoders.{stream}.place_embedding.weight": position} if fixed is None else {}),
        "trunk.stream_embedding.weight": row,
        **renamed(peer, {theirs: ours for ours, theirs in _trunk_names(like).items()}),
        **joined,
    }


def mlm_weights(
    body: Mapping[str, Tensor], head: Mapping[str, Tensor], vector: Float[Tensor, " D"], mask: int
) -> dict[str, Tensor]:
    """Encoder (as `roberta_weights` gives it), tied predictor and mask vector -> RobertaPreLayerNormForMaskedLM's."""
    table = body["embeddings.word_embeddings.weight"]
    shown = table.clone()
    shown[mask] = vector
    return {
        **{BODY + name: value for name, value in body.items()},
        BODY + "embeddings.word_embeddings.weight": shown,
        **renamed(head, {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in HEAD.items() for kind in KINDS}),
        "lm_head.decoder.weight": table,
        "lm_head.decoder.bias": head["bias"],
        "lm_head.bias": head["bias"],
    }


def split_mlm_weights(
    peer: Mapping[str, Tensor], mask: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], Float[Tensor, " D"]]:
    """The way back: encoder, predictor without its table, mask vector. A tied model's table may differ in no row."""
    body = {name.removeprefix(BODY): value for name, value in peer.items() if name.startswith(BODY)}
    shown, table = body["embeddings.word_embeddings.weight"], peer["lm_head.decoder.weight"]
    others = torch.arange(len(table)) != mask
    if not torch.equal(shown[others], table[others]):
        raise ConfigError("the transformers model's head has a table of its own; predictor 'tied' shares the encoder's")
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for ours, theirs in HEAD.items() for kind in KINDS}
    head = {**renamed(peer, names), "bias": peer["lm_head.decoder.bias"]}
    return {**body, "embeddings.word_embeddings.weight": table}, head, shown[mask]


def _text_only(backbone: Backbone) -> tuple[str, TextEncoder, TrunkShape]:
    stream, encoder = only_stream(backbone, "RobertaPreLayerNorm")
    if not isinstance(encoder, TextEncoder):
        raise ConfigError(f"RobertaPreLayerNorm takes text; stream '{stream}' is none")
    if encoder.positions == "rotary":
        raise ConfigError("RobertaPreLayerNorm has no rotary positions; train with positions=learned or sincos")
    shape = trunk_shape(backbone.trunk)
    if not shape.norm_entry:
        raise ConfigError("RobertaPreLayerNorm normalises its embeddings; train with trunk.norm_entry=true")
    return stream, encoder, shape


def _masked_text(model: MaskedModel, stream: str, shape: TrunkShape) -> StreamObjective:
    if not isinstance(model.objective, MaskedPrediction):
        raise ConfigError(f"only masked prediction has such a head, this objective is {type(model.objective).__name__}")
    part = cast("StreamObjective", model.objective.streams[stream])
    if not isinstance(part.predictor, TiedPredictor) or not isinstance(part.corruption, ReplaceCorruption):
        raise ConfigError(
            "a masked LM of transformers needs predictor=tied and corruption=replace; map the backbone alone"
        )
    if part.predictor.norm.eps != shape.eps:
        raise ConfigError(
            f"transformers has one norm_eps; the trunk has {shape.eps}, the head {part.predictor.norm.eps}"
        )
    return part


def _fixed(encoder: TextEncoder) -> Tensor | None:
    return None if encoder.positions == "learned" else cast("Tensor", encoder.table)


def _config(shape: TrunkShape, text: Text, *, tied: bool) -> RobertaPreLayerNormConfig:
    return RobertaPreLayerNormConfig(
        vocab_size=text.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feedforward,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=text.special("pad") + 1 + text.max_length,
        type_vocab_size=1,
        layer_norm_eps=shape.eps,
        pad_token_id=text.special("pad"),
        bos_token_id=text.special("bos"),
        eos_token_id=text.special("eos"),
        tie_word_embeddings=tied,
    )


def _check_config(config: RobertaPreLayerNormConfig, shape: TrunkShape, text: Text) -> None:
    """What weights alone don't tell."""
    wanted = _config(shape, text, tied=True)
    for name in ("num_attention_heads", "num_hidden_layers", "layer_norm_eps", "pad_token_id", "hidden_act"):
        theirs, ours = getattr(config, name), getattr(wanted, name)
        if theirs != ours:
            raise ConfigError(f"the transformers model has {name} {theirs}, this backbone needs {ours}")


def _trunk_names(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of what is mapped whole, all but queries, keys and values."""
    names = {f"trunk.entry.{kind}": f"embeddings.LayerNorm.{kind}" for kind in KINDS}
    names |= {f"trunk.norm.{kind}": f"LayerNorm.{kind}" for kind in KINDS}
    for name in weights:
        if name.startswith("trunk.blocks.") and ".attention.qkv." not in name:
            number, _, rest = name.removeprefix("trunk.blocks.").partition(".")
            part, _, kind = rest.rpartition(".")
            names[name] = f"encoder.layer.{number}.{BLOCK[part]}.{kind}"
    return names
