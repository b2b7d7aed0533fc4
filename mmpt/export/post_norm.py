"""A post-norm backbone of one stream as transformers' BertModel or HubertModel (as HuBERT Base has it).

Names of weights are those of `mmpt.foreign`, which reads such folders.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, HubertConfig, HubertModel

from mmpt.encoders.speech import Speech, SpeechEncoder
from mmpt.encoders.text import Text, TextEncoder
from mmpt.encoders.wave_stem import EPS
from mmpt.errors import ConfigError
from mmpt.export.trunk import TrunkShape, only_stream, trunk_shape
from mmpt.foreign.bert import Bert
from mmpt.foreign.entries import given
from mmpt.foreign.hubert import Hubert
from mmpt.model import Backbone

STREAM = "backbone.trunk.stream_embedding.weight"


def to_bert(backbone: Backbone, text: Text) -> BertModel:
    """The encoder alone; its `last_hidden_state` is our latents. It has one type of token, the stream's embedding."""
    stream, encoder = only_stream(backbone, "BertModel")
    if not isinstance(encoder, TextEncoder):
        raise ConfigError(f"BertModel takes text; stream '{stream}' is none")
    if encoder.positions == "rotary":
        raise ConfigError("BertModel has no rotary positions; train with positions=learned or sincos")
    shape = _post_norm(backbone, "BertModel")
    settings: dict[str, Any] = {
        "vocab_size": text.vocabulary,
        "max_position_embeddings": text.max_length,
        "layer_norm_eps": shape.eps,
        **_sizes(shape),
    }
    chosen: dict[str, Any] = {"pad_token_id": text.special("pad"), "hidden_act": "gelu", "type_vocab_size": 1}
    dropout: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    peer = BertModel(BertConfig(**settings, **chosen, **dropout), add_pooling_layer=False)
    weights = _weights(backbone, stream, "text")
    if encoder.positions == "sincos":
        weights["backbone.encoders.text.place_embedding.weight"] = encoder.table
    peer.load_state_dict(given(Bert(settings).entries(text.facts), weights))
    return peer.eval()


def to_hubert_base(backbone: Backbone, speech: Speech) -> HubertModel:
    """The encoder alone; its `last_hidden_state` is our latents. The stream's embedding has to be zeros."""
    stream, encoder = only_stream(backbone, "HuBERT")
    if not isinstance(encoder, SpeechEncoder) or encoder.convolution is None:
        raise ConfigError("HuBERT takes waveforms and has convolutional positions; train with positions=convolutional")
    shape, weights = _post_norm(backbone, "HuBERT Base"), _weights(backbone, stream, "speech")
    if shape.eps != EPS:
        raise ConfigError(f"transformers has one norm_eps, and the stem's is {EPS}; train with trunk.norm_eps={EPS}")
    if weights.pop(STREAM).any():
        raise ConfigError(
            "HuBERT has no embedding of the modality; this backbone's is not zero, so it can't be exported"
        )
    kernels, strides = zip(*speech.stem, strict=True)
    settings: dict[str, Any] = {
        "layer_norm_eps": shape.eps,
        "feat_extract_norm": speech.norm,
        "conv_dim": (speech.channels,) * len(kernels),
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": speech.conv_bias,
        "num_conv_pos_embeddings": speech.kernel,
        "num_conv_pos_embedding_groups": speech.groups,
        "do_stable_layer_norm": False,
        **_sizes(shape),
    }
    peer = HubertModel(HubertConfig(**settings, hidden_act="gelu", mask_time_prob=0.0, mask_feature_prob=0.0))
    peer.load_state_dict(given(Hubert(settings).entries(speech.facts), weights))
    return peer.eval()


def _post_norm(backbone: Backbone, peer: str) -> TrunkShape:
    shape = trunk_shape(backbone.trunk, norm="post")
    if not shape.norm_entry:
        raise ConfigError(f"{peer} normalises what enters its blocks; train with trunk.norm_entry=true")
    return shape


def _sizes(shape: TrunkShape) -> dict[str, int]:
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feedforward,
    }


def _weights(backbone: Backbone, stream: str, name: str) -> dict[str, Tensor]:
    """Under the names that `mmpt.foreign` has for a stream of this kind."""
    own = f"encoders.{stream}."
    weights = {n.replace(own, f"encoders.{name}.", 1): value for n, value in backbone.state_dict().items()}
    return {f"backbone.{n}": value.detach().to(torch.float32) for n, value in weights.items()}
