"""A text-only backbone as the encoder of transformers that is the same function; which one, the norms of its trunk say.

Post-norm is `BertModel`; pre-norm is `RobertaPreLayerNormModel` with a norm before the blocks and `EsmModel` without.
Names of weights are those of `mmpt.foreign`, which reads such folders. In all three `last_hidden_state` is our latents.
"""

from typing import Any

from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    EsmConfig,
    EsmModel,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormModel,
)

from mmpt.encoders.text import Text, TextEncoder
from mmpt.errors import ConfigError
from mmpt.export.trunk import (
    STREAM,
    TrunkShape,
    foreign_weights,
    has_norm_entry,
    is_post_norm,
    only_stream,
    sizes,
    trunk_shape,
)
from mmpt.foreign.bert import ENCODER, Bert
from mmpt.foreign.entries import given
from mmpt.foreign.esm import Esm
from mmpt.foreign.roberta_prelayernorm import RobertaPreLayerNorm
from mmpt.model import Backbone

POSITIONS = f"{ENCODER}place_embedding.weight"
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def to_transformers(backbone: Backbone, text: Text) -> BertModel | RobertaPreLayerNormModel | EsmModel:
    """The one that it is; raises ConfigError for a backbone that transformers has no text model for."""
    if is_post_norm(backbone.trunk):
        return to_bert(backbone, text)
    return to_roberta(backbone, text) if has_norm_entry(backbone.trunk) else to_esm(backbone, text)


def to_bert(backbone: Backbone, text: Text) -> BertModel:
    """Post-norm behind a norm of the embeddings; its one type of token is the stream's embedding."""
    weights = _weights(backbone, "BertModel")
    shape = trunk_shape(backbone.trunk, norm="post")
    if not shape.norm_entry:
        raise ConfigError("BertModel normalises what enters its blocks; train with trunk.norm_entry=true")
    settings = _settings(shape, text, unused=0)
    peer = BertModel(
        BertConfig(**settings, **NO_DROPOUT, hidden_act="gelu", type_vocab_size=1), add_pooling_layer=False
    )
    peer.load_state_dict(given(Bert(settings).entries(text.facts), weights))
    return peer.eval()


def to_roberta(backbone: Backbone, text: Text) -> RobertaPreLayerNormModel:
    """Pre-norm behind a norm of the embeddings; position ids begin behind the id of padding."""
    weights = _weights(backbone, "RobertaPreLayerNorm")
    shape = trunk_shape(backbone.trunk)
    if not shape.norm_entry:
        raise ConfigError("RobertaPreLayerNorm normalises its embeddings; train with trunk.norm_entry=true")
    settings = _settings(shape, text, unused=text.special("pad") + 1)
    ends: dict[str, Any] = {f"{name}_token_id": text.special(name) for name in ("bos", "eos")}
    config = RobertaPreLayerNormConfig(**settings, **NO_DROPOUT, **ends, hidden_act="gelu", type_vocab_size=1)
    peer = RobertaPreLayerNormModel(config, add_pooling_layer=False)
    peer.load_state_dict(given(RobertaPreLayerNorm(settings).entries(text.facts), weights))
    return peer.eval()


def to_esm(backbone: Backbone, text: Text) -> EsmModel:
    """Pre-norm alone. ESM is known for proteins, but the class is a plain encoder with learned positions.

    It has no embedding of the modality: the stream's is added to the positions.
    """
    weights = _weights(backbone, "EsmModel")
    shape = trunk_shape(backbone.trunk)
    if shape.norm_entry:
        raise ConfigError("a trunk with norm_entry is a RobertaPreLayerNorm, not an EsmModel")
    weights[POSITIONS] = weights[POSITIONS] + weights.pop(STREAM)
    settings = _settings(shape, text, unused=text.special("pad") + 1)
    ways: dict[str, Any] = {"position_embedding_type": "absolute", "emb_layer_norm_before": False}
    config = EsmConfig(**settings, **NO_DROPOUT, **ways, mask_token_id=text.special("mask"), token_dropout=False)
    peer = EsmModel(config, add_pooling_layer=False)
    task = {name: value.zero_() for name, value in peer.state_dict().items() if "contact_head" in name}  # on proteins
    peer.load_state_dict({**given(Esm(settings).entries(text.facts), weights), **task})
    return peer.eval()


def _weights(backbone: Backbone, peer: str) -> dict[str, Tensor]:
    """Under the names of `mmpt.foreign`, a fixed table of positions among them."""
    stream, encoder = only_stream(backbone, peer)
    if not isinstance(encoder, TextEncoder):
        raise ConfigError(f"{peer} takes text; stream '{stream}' is none")
    if encoder.positions == "rotary":
        raise ConfigError(f"{peer} has no rotary positions of our kind; train with positions=learned or sincos")
    weights = foreign_weights(backbone, stream, "text")
    return weights if encoder.positions == "learned" else {**weights, POSITIONS: encoder.table}


def _settings(shape: TrunkShape, text: Text, *, unused: int) -> dict[str, Any]:
    """As config.json has them, with `unused` rows before the table of positions."""
    return {
        "vocab_size": text.vocabulary,
        "max_position_embeddings": unused + text.max_length,
        "layer_norm_eps": shape.eps,
        "pad_token_id": text.special("pad"),
        **sizes(shape),
    }
