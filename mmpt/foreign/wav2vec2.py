"""wav2vec 2.0 (Baevski et al. 2020) as transformers has it, base and large.

`do_stable_layer_norm` (the large models) is a pre-norm trunk; without it (the base models) the trunk is post-norm
behind a norm of what enters it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt.encoders import Facts
from mmpt.encoders.wave_stem import EPS
from mmpt.errors import ConfigError
from mmpt.foreign import Family
from mmpt.foreign.entries import Entry, block_layers, layers, taps
from mmpt.foreign.folder import read_json
from mmpt.foreign.pixels import PREPROCESSOR
from mmpt.foreign.trunks import trunk_settings

WAVE_NEEDS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "conv_dim": (512,) * 7,
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
}
WAVE_ONLY = {"hidden_act": "gelu", "feat_extract_activation": "gelu"}
MAX_SECONDS = 15.0  # of a stretch; the models themselves have no longest one
BLOCK = {
    "norm1": "layer_norm",
    "attention.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.proj": "attention.out_proj",
    "norm2": "final_layer_norm",
    "feedforward.mlp.fc1": "feed_forward.intermediate_dense",
    "feedforward.mlp.fc2": "feed_forward.output_dense",
}
ENCODER = "backbone.encoders.speech."


class Wav2Vec2(Family):
    """`Wav2Vec2Model` and all models around it."""

    kind = "wav2vec 2.0"
    modality = "speech"
    needs = WAVE_NEEDS
    only = WAVE_ONLY | {"add_adapter": False, "adapter_attn_dim": None}
    inside = ("wav2vec2.",)
    left = ("masked_spec_embed",)

    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """Sampling rate, and whether waves are normalised."""
        file = folder / PREPROCESSOR
        if not file.exists():
            notice = f"{folder}: there is no {PREPROCESSOR}; recordings are taken to be of 16000 Hz, each normalised"
            return Facts(folder, {"sample_rate": 16000, "normalize_wave": True}), (notice,)
        plain = read_json(file)
        rate, normalised = plain.get("sampling_rate", 16000), plain.get("do_normalize", True)
        if not isinstance(rate, int) or not isinstance(normalised, bool):
            raise ConfigError(
                f"{file}: expected sampling_rate in Hz and do_normalize true or false, got {rate}, {normalised}"
            )
        return Facts(folder, {"sample_rate": rate, "normalize_wave": normalised}), ()

    def stream(self, facts: Facts) -> dict[str, Any]:
        """The convolutional stem."""
        channels = set(self.settings["conv_dim"])
        if len(channels) != 1 or self.settings["layer_norm_eps"] != EPS:
            raise ConfigError(
                f"conv_dim, layer_norm_eps: a speech stream has as many channels in every convolution and norms with "
                f"{EPS}, this model {self.settings['conv_dim']} and {self.settings['layer_norm_eps']}"
            )
        pairs = zip(self.settings["conv_kernel"], self.settings["conv_stride"], strict=True)
        return {
            "normalize_wave": facts.values["normalize_wave"],
            "stem": [list(pair) for pair in pairs],
            "channels": channels.pop(),
            "conv_bias": self.settings["conv_bias"],
            "norm": self.settings["feat_extract_norm"],
            "positions": "convolutional",
            "kernel": self.settings["num_conv_pos_embeddings"],
            "groups": self.settings["num_conv_pos_embedding_groups"],
            "max_seconds": MAX_SECONDS,
        }

    def trunk(self) -> dict[str, Any]:
        """Pre-norm where `do_stable_layer_norm` says so."""
        stable = self.settings["do_stable_layer_norm"]
        return trunk_settings(self.settings, norm="pre" if stable else "post", norm_entry=not stable)

    def entries(self, facts: Facts) -> list[Entry]:
        """The encoder's."""
        positions = "encoder.pos_conv_embed.conv"
        last = "backbone.trunk.norm" if self.settings["do_stable_layer_norm"] else "backbone.trunk.entry"
        return [
            *_stem(self.settings),
            *layers(f"{ENCODER}norm", "feature_projection.layer_norm"),
            *layers(f"{ENCODER}projection", "feature_projection.projection"),
            Entry(f"{ENCODER}convolution.length", (f"{positions}.parametrizations.weight.original0",)),
            Entry(f"{ENCODER}convolution.direction", (f"{positions}.parametrizations.weight.original1",)),
            Entry(f"{ENCODER}convolution.bias", (f"{positions}.bias",)),
            *block_layers(self.settings["num_hidden_layers"], "encoder.layers.{number}.", BLOCK),
            *layers(last, "encoder.layer_norm"),
        ]

    def objective_entries(self, facts: Facts) -> list[Entry]:
        """The vector of hidden frames."""
        return [Entry("objective.streams.speech.corruption.vector", (f"{self.inside[0]}masked_spec_embed",))]


def _stem(settings: Mapping[str, Any]) -> list[Entry]:
    entries = []
    for number, kernel in enumerate(settings["conv_kernel"]):
        ours, theirs = f"{ENCODER}stem.layers.{number}", f"feature_extractor.conv_layers.{number}"
        entries.append(Entry(f"{ours}.weight", (f"{theirs}.conv.weight",), taps(kernel)))
        if settings["conv_bias"]:
            entries.append(Entry(f"{ours}.bias", (f"{theirs}.conv.bias",)))
        if settings["feat_extract_norm"] == "layer" or number == 0:
            entries += layers(f"{ours}.norm", f"{theirs}.layer_norm")
    return entries
