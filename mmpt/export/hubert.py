"""A speech-only backbone as transformers' HubertModel: post-norm as HuBERT Base, pre-norm as HuBERT Large.

HuBERT has no embedding of the modality, and what a trained one adds to every frame can't be put anywhere else, for the
convolutional positions see the frames without it: a run of speech alone has none, one of several streams has. Samples
behind the last whole frame, which mmpt leaves out, take part in the statistics of HuBERT's `group` norm, so give it
whole frames there. Names of weights are those of `mmpt.foreign`, which reads such folders.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import HubertConfig, HubertModel

from mmpt.encoders.speech import Speech, SpeechEncoder
from mmpt.encoders.wave_stem import EPS
from mmpt.errors import ConfigError
from mmpt.export.trunk import STREAM, TrunkShape, foreign_weights, is_post_norm, only_stream, sizes, trunk_shape
from mmpt.foreign.entries import given
from mmpt.foreign.hubert import Hubert
from mmpt.model import Backbone
from mmpt.tokens import Content


def to_hubert(backbone: Backbone, speech: Speech) -> HubertModel:
    """The encoder alone; its `last_hidden_state` is our latents."""
    stream, shape = _speech_only(backbone)
    weights = foreign_weights(backbone, stream, "speech")
    if weights.pop(STREAM).any():
        raise ConfigError(
            "HuBERT has no embedding of the modality, and a run with other streams beside speech has learned one; "
            "use --to safetensors, or train a run of speech alone"
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
        "do_stable_layer_norm": not is_post_norm(backbone.trunk),
        **sizes(shape),
    }
    peer = HubertModel(HubertConfig(**settings, hidden_act="gelu", mask_time_prob=0.0, mask_feature_prob=0.0))
    peer.load_state_dict(given(Hubert(settings).entries(speech.facts), weights))
    return peer.eval()


def waves_of(speech: Speech, content: Content) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The waveforms that a speech stream's windows were cut from, padded with zeros, and which samples are real."""
    counts = content.valid.sum(1).tolist()
    lengths = [speech.window + speech.hop * (count - 1) for count in counts]
    waves = torch.zeros(len(lengths), max(lengths))
    for row, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        windows = content.values[row, :count]
        waves[row, :length] = torch.cat([windows[:-1, : speech.hop].flatten(), windows[-1]])
    return waves, torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def _speech_only(backbone: Backbone) -> tuple[str, TrunkShape]:
    stream, encoder = only_stream(backbone, "HuBERT")
    if not isinstance(encoder, SpeechEncoder):
        raise ConfigError(f"HuBERT takes waveforms; stream '{stream}' is none")
    if encoder.convolution is None:
        raise ConfigError("HuBERT has convolutional positions; train with positions=convolutional")
    post = is_post_norm(backbone.trunk)
    shape = trunk_shape(backbone.trunk, norm="post" if post else "pre")
    if post and not shape.norm_entry:
        raise ConfigError("HuBERT Base normalises what enters its trunk; train with trunk.norm_entry=true")
    if shape.norm_entry and not post:
        raise ConfigError("HuBERT Large does not normalise what enters its trunk; train with trunk.norm_entry=false")
    if shape.eps != EPS:
        raise ConfigError(f"transformers has one norm_eps, and the stem's is {EPS}; train with trunk.norm_eps={EPS}")
    return stream, shape
