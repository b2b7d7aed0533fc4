"""A speech-only backbone as transformers' HubertModel (pre-norm, as HuBERT Large has it), and back.

HuBERT has no embedding of the modality, and what a trained one adds to every frame can't be put anywhere else, for the
convolutional positions see the frames without it: a run of speech alone has none, one of several streams has. Samples
behind the last whole frame, which mmpt leaves out, take part in the statistics of HuBERT's `group` norm, so give it
whole frames there.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import HubertConfig, HubertModel

from mmpt.build import load_weights
from mmpt.encoders.speech import Speech, SpeechEncoder
from mmpt.encoders.wave_stem import EPS
from mmpt.errors import ConfigError
from mmpt.export.trunk import TrunkShape, only_stream, renamed, split_attention, trunk_shape
from mmpt.model import Backbone
from mmpt.tokens import Content

KINDS = ("weight", "bias")
PARTS = ("q_proj", "k_proj", "v_proj")
BLOCK = {
    "norm1": "layer_norm",
    "attention.proj": "attention.out_proj",
    "norm2": "final_layer_norm",
    "feedforward.mlp.fc1": "feed_forward.intermediate_dense",
    "feedforward.mlp.fc2": "feed_forward.output_dense",
}
STREAM = "trunk.stream_embedding.weight"


def to_hubert(backbone: Backbone, speech: Speech) -> HubertModel:
    """The encoder alone; its `last_hidden_state` is our latents."""
    stream, shape = _speech_only(backbone)
    weights = backbone.state_dict()
    if weights[STREAM].any():
        raise ConfigError(
            "HuBERT has no embedding of the modality, and a run with other streams beside speech has learned one; "
            "use --to safetensors, or train a run of speech alone"
        )
    peer = HubertModel(_config(shape, speech))
    peer.load_state_dict(hubert_weights(weights, stream, speech))
    return peer.eval()


def from_hubert(backbone: Backbone, speech: Speech, peer: HubertModel) -> None:
    """Load the encoder's weights; raises ConfigError for a model that a backbone of this shape can't be."""
    stream, shape = _speech_only(backbone)
    _check_config(peer.config, shape, speech)
    load_weights(backbone, backbone_weights(peer.state_dict(), backbone.state_dict(), stream, speech))


def hubert_weights(weights: Mapping[str, Tensor], stream: str, speech: Speech) -> dict[str, Tensor]:
    """From a backbone's to HubertModel's."""
    other = split_attention(weights, "encoder.layers.{number}.attention.{part}.{kind}", PARTS)
    for number, (kernel, _) in enumerate(speech.stem):
        taps = weights[f"encoders.{stream}.stem.layers.{number}.weight"].unflatten(0, (kernel, -1))
        other[f"feature_extractor.conv_layers.{number}.conv.weight"] = taps.permute(2, 1, 0).contiguous()
    return {**renamed(weights, _names(weights, stream)), **other}


def backbone_weights(
    peer: Mapping[str, Tensor], like: Mapping[str, Tensor], stream: str, speech: Speech
) -> dict[str, Tensor]:
    """From HubertModel's to ours; the vector of masked frames belongs to corruption and is left out.

    Args:
        peer: the model's state dict.
        like: the state dict of the backbone to fill.
        stream: the name of its one stream.
        speech: its modality.
    """
    other = {STREAM: torch.zeros_like(like[STREAM])}
    for name in like:
        if ".attention.qkv." in name:
            number, kind = name.split(".")[2], name.rpartition(".")[2]
            theirs = [f"encoder.layers.{number}.attention.{part}.{kind}" for part in PARTS]
            other[name] = torch.cat(list(renamed(peer, {name: name for name in theirs}).values()))
    for number in range(len(speech.stem)):
        name = f"feature_extractor.conv_layers.{number}.conv.weight"
        taps = renamed(peer, {name: name})[name].permute(2, 1, 0)
        other[f"encoders.{stream}.stem.layers.{number}.weight"] = taps.flatten(0, 1)
    return {**like, **renamed(peer, {theirs: ours for ours, theirs in _names(like, stream).items()}), **other}


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
    shape = trunk_shape(backbone.trunk)
    if shape.norm_entry:
        raise ConfigError("HuBERT Large does not normalise what enters its trunk; train with trunk.norm_entry=false")
    if shape.eps != EPS:
        raise ConfigError(f"transformers has one norm_eps, and the stem's is {EPS}; train with trunk.norm_eps={EPS}")
    return stream, shape


def _config(shape: TrunkShape, speech: Speech) -> HubertConfig:
    kernels, strides = zip(*speech.stem, strict=True)
    return HubertConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feedforward,
        hidden_act="gelu",
        layer_norm_eps=shape.eps,
        do_stable_layer_norm=True,
        feat_extract_norm=speech.norm,
        feat_extract_activation="gelu",
        conv_dim=(speech.channels,) * len(speech.stem),
        conv_kernel=kernels,
        conv_stride=strides,
        conv_bias=speech.conv_bias,
        num_conv_pos_embeddings=speech.kernel,
        num_conv_pos_embedding_groups=speech.groups,
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
    )


def _check_config(config: HubertConfig, shape: TrunkShape, speech: Speech) -> None:
    """What weights alone don't tell."""
    wanted = _config(shape, speech)
    for name in (
        *("num_attention_heads", "num_hidden_layers", "layer_norm_eps", "hidden_act", "do_stable_layer_norm"),
        *("feat_extract_norm", "feat_extract_activation", "conv_kernel", "conv_stride", "conv_bias"),
        *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "feat_proj_layer_norm", "conv_pos_batch_norm"),
    ):
        theirs, ours = getattr(config, name), getattr(wanted, name)
        if isinstance(ours, list | tuple):
            theirs, ours = list(theirs), list(ours)
        if theirs != ours:
            raise ConfigError(f"the transformers model has {name} {theirs}, this backbone needs {ours}")


def _names(weights: Mapping[str, Tensor], stream: str) -> dict[str, str]:
    """Names of what is mapped whole, all but convolutions, queries, keys and values."""
    own, positions = f"encoders.{stream}.", "encoder.pos_conv_embed.conv"
    names = {
        f"{own}convolution.length": f"{positions}.parametrizations.weight.original0",
        f"{own}convolution.direction": f"{positions}.parametrizations.weight.original1",
        f"{own}convolution.bias": f"{positions}.bias",
    }
    for kind in KINDS:
        names[f"{own}norm.{kind}"] = f"feature_projection.layer_norm.{kind}"
        names[f"{own}projection.{kind}"] = f"feature_projection.projection.{kind}"
        names[f"trunk.norm.{kind}"] = f"encoder.layer_norm.{kind}"
    for name in weights:
        before, _, kind = name.rpartition(".")
        if name.startswith("trunk.blocks.") and ".attention.qkv." not in name:
            number, _, part = before.removeprefix("trunk.blocks.").partition(".")
            names[name] = f"encoder.layers.{number}.{BLOCK[part]}.{kind}"
        elif name.startswith(f"{own}stem.layers.") and before.endswith(".norm"):
            number = before.split(".")[-2]
            names[name] = f"feature_extractor.conv_layers.{number}.layer_norm.{kind}"
        elif name.startswith(f"{own}stem.layers.") and kind == "bias":
            names[name] = f"feature_extractor.conv_layers.{before.split('.')[-1]}.conv.bias"
    return names
