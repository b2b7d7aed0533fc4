"""One stream or several on one trunk as `mmpt.transformers.MmptModel`, which AutoModel loads once that is imported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmpt.config import Component, to_plain
from mmpt.encoders import Modality
from mmpt.export.samples import Latents
from mmpt.model import Backbone
from mmpt.settings import Recipe
from mmpt.trunk import Trunk
from mmpt.trunk.feedforward.modality_experts import ModalityExperts

USE = (
    "import mmpt.transformers; AutoModel.from_pretrained('{folder}'), AutoFeatureExtractor.from_pretrained('{folder}')"
)
PLAIN = {"compile": False, "checkpointing": False}  # of a trunk: how it was trained, not what it is


def to_registered(backbone: Backbone, modalities: Mapping[str, Modality], recipe: Recipe, folder: Path) -> Latents:
    """Write weights, config and what makes inputs; returns what the loaded model makes of them."""
    from transformers import AutoModel

    from mmpt.transformers import MmptConfig, MmptFeatureExtractor, MmptModel

    streams = {name: to_plain(recipe.streams[name]) for name in modalities}
    model = MmptModel(MmptConfig.of(streams, _trunk(recipe.trunk, alone=len(modalities) == 1), modalities))
    model.backbone.load_state_dict(backbone.state_dict())
    model.save_pretrained(folder)
    MmptFeatureExtractor.of(streams, modalities).save_pretrained(folder)
    loaded = AutoModel.from_pretrained(folder).eval()

    def latents(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return loaded(**inputs).latents

    return latents


def _trunk(trunk: Component[Trunk], *, alone: bool) -> dict[str, Any]:
    """As in the recipe; a stream alone has the one expert that was its own as its dense feed-forward."""
    plain = {**to_plain(trunk), **{name: value for name, value in PLAIN.items() if name in trunk.settings}}
    for name, part in trunk.settings.items():
        if alone and isinstance(part, Component) and part.target is ModalityExperts:
            plain[name] = {**plain[name], "type": "dense"}
    return plain
