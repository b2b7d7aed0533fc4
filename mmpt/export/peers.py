"""The models that a stream can be exported as: how each is made, saved, loaded by its own library, and asked."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.image import Image, ImageEncoder
from mmpt.encoders.speech import Speech
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.tokens import Content


class Peer(ABC):
    """One stream as a model of another library.

    Args:
        backbone: of this stream alone.
        modality: the stream's.
    """

    use: ClassVar[str]  # Python that loads it, for the card; {folder} is where it lies

    def __init__(self, backbone: Backbone, modality: Any) -> None:
        self.backbone, self.modality = backbone, modality

    @abstractmethod
    def save(self, folder: Path) -> None:
        """All that the other library needs."""

    @abstractmethod
    def latents(self, folder: Path, content: Content) -> Tensor:
        """Of the model as loaded from the folder, without mmpt: (B, N, D)."""


class TextPeer(Peer):
    """RobertaPreLayerNorm, or Esm where the trunk has no norm before its blocks, or Bert of a post-norm trunk."""

    use = "AutoModel.from_pretrained('{folder}', add_pooling_layer=False), AutoTokenizer.from_pretrained('{folder}')"

    def save(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        from mmpt.export.text import to_transformers

        to_transformers(self.backbone, self.modality).save_pretrained(folder)
        facts = self.modality.facts
        tokenizer = AutoTokenizer.from_pretrained(facts.folder / facts.values["tokenizer"])
        tokenizer.model_input_names = ["input_ids", "attention_mask"]  # there is one type of token
        tokenizer.model_max_length = self.modality.max_length
        tokenizer.save_pretrained(folder)

    def latents(self, folder: Path, content: Content) -> Tensor:
        from transformers import AutoModel

        peer = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
        size = content.valid.shape[1]
        longest = int(content.valid.sum(1).max())  # columns of padding alone may have no position
        ids, valid = content.values[:, :longest], content.valid[:, :longest]
        latents = peer(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        return torch.nn.functional.pad(latents, (0, 0, 0, size - longest))


class ViTPeer(Peer):
    """transformers' ViT and its image processor."""

    use = (
        "AutoModel.from_pretrained('{folder}', add_pooling_layer=False), AutoImageProcessor.from_pretrained('{folder}')"
    )

    def save(self, folder: Path) -> None:
        from mmpt.export.vit import to_vit

        model, processor = to_vit(self.backbone)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    def latents(self, folder: Path, content: Content) -> Tensor:
        from transformers import AutoModel

        peer = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
        return peer(pixel_values=_pixels(self.backbone, content)).last_hidden_state


class TimmPeer(Peer):
    """timm's VisionTransformer: weights, and the numbers to build it with."""

    use = (
        "config = json.loads(pathlib.Path('{folder}/config.json').read_text()); "
        "norm = functools.partial(torch.nn.LayerNorm, eps=config['norm_eps'])\n"
        "    model = timm.models.VisionTransformer(**config['model'], norm_layer=norm)\n"
        "    model.load_state_dict(safetensors.torch.load_file('{folder}/model.safetensors'))"
    )

    def save(self, folder: Path) -> None:
        from mmpt.export.timm import to_timm

        peer: Any = to_timm(self.backbone)  # whose stubs take every attribute for a tensor
        block, config = peer.blocks[0], dict(peer.pretrained_cfg)
        model = {
            "img_size": peer.patch_embed.img_size[0],
            "patch_size": peer.patch_embed.patch_size[0],
            "num_classes": 0,
            "embed_dim": peer.embed_dim,
            "depth": len(peer.blocks),
            "num_heads": block.attn.num_heads,
            "mlp_ratio": (block.mlp.fc1.out_features + 0.5) / peer.embed_dim,
        }
        save_file({name: value.contiguous() for name, value in peer.state_dict().items()}, folder / "model.safetensors")
        told = {"model": model, "norm_eps": peer.norm.eps, "pretrained_cfg": config}
        (folder / "config.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def latents(self, folder: Path, content: Content) -> Tensor:
        from functools import partial

        from timm.models.vision_transformer import VisionTransformer

        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        norm: Any = partial(torch.nn.LayerNorm, eps=told["norm_eps"])
        peer = VisionTransformer(**told["model"], norm_layer=norm)
        peer.load_state_dict(load_file(folder / "model.safetensors"))
        return peer.eval().forward_features(_pixels(self.backbone, content))


class HubertPeer(Peer):
    """transformers' HubertModel and the extractor that pads its waveforms."""

    use = "AutoModel.from_pretrained('{folder}'), AutoFeatureExtractor.from_pretrained('{folder}')"

    def save(self, folder: Path) -> None:
        from transformers import Wav2Vec2FeatureExtractor

        from mmpt.export.hubert import to_hubert

        to_hubert(self.backbone, self.modality).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=int(self.modality.rate),
            padding_value=0.0,
            do_normalize=self.modality.normalize_wave,
            return_attention_mask=True,
        ).save_pretrained(folder)

    def latents(self, folder: Path, content: Content) -> Tensor:
        from transformers import AutoModel

        from mmpt.export.hubert import waves_of

        peer = AutoModel.from_pretrained(folder).eval()
        waves, real = waves_of(self.modality, content)
        if self.modality.norm == "layer":
            return peer(waves, attention_mask=real.long()).last_hidden_state
        rows = [peer(wave[valid].unsqueeze(0)).last_hidden_state[0] for wave, valid in zip(waves, real, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # theirs would count padding in a group norm


KINDS: dict[tuple[str, type], type[Peer]] = {
    ("transformers", Text): TextPeer,
    ("transformers", Image): ViTPeer,
    ("timm", Image): TimmPeer,
    ("transformers", Speech): HubertPeer,
}


def has_peer(to: str, modalities: Sequence[Modality]) -> bool:
    """Whether the library has a class of its own for such streams: for some kinds, and for one stream alone."""
    return len(modalities) == 1 and any(library == to and isinstance(modalities[0], kind) for library, kind in KINDS)


def peer_of(to: str, backbone: Backbone, modality: Modality) -> Peer:
    """Raises ConfigError for a stream that the library has no model for."""
    for (library, kind), peer in KINDS.items():
        if library == to and isinstance(modality, kind):
            return peer(backbone, modality)
    raise ConfigError(
        f"--to {to}: it has no model for {type(modality).__name__.lower()}; use transformers, onnx or safetensors"
    )


def _pixels(backbone: Backbone, content: Content) -> Tensor:
    from mmpt.export.timm import timm_pixels

    (encoder,) = backbone.encoders.values()
    assert isinstance(encoder, ImageEncoder)
    return timm_pixels(content.values, encoder.mean, encoder.std)
