"""A backbone as a model class of transformers: importing this module registers it with AutoModel and its siblings.

    import mmpt.transformers
    model = AutoModel.from_pretrained("five").eval()
    inputs = AutoFeatureExtractor.from_pretrained("five")([{"text": "salt and mist"}, {"labs": {"sodium": 138}}])
    latents = model(**inputs).latents["text"]

For what transformers has no class of its own: ECG, laboratory tables, log-mel speech, several streams on one trunk. The
folder is safetensors and JSON alone; no code comes with it, so that nothing has to be trusted.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, BatchFeature, PreTrainedConfig, PreTrainedModel
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.utils.generic import ModelOutput

from mmpt.build import build_modalities
from mmpt.config import Component, component
from mmpt.downstream.values import read_value
from mmpt.encoders import Facts, Modality
from mmpt.errors import DataError
from mmpt.export.flat import batch_of, flat_inputs
from mmpt.model import Backbone
from mmpt.trunk import Trunk

T = TypeVar("T")
LEFT_BEHIND = ("token_counts",)  # statistics that masking alone reads, as long as the vocabulary


class MmptConfig(PreTrainedConfig):
    """What a backbone is built from: `streams` and `trunk` as in a recipe, and what the data said of each stream."""

    model_type = "mmpt"
    streams: dict[str, Any] | None = None
    order: list[str] | None = None  # of the streams, which their numbers follow; JSON is written by name
    trunk: dict[str, Any] | None = None
    facts: dict[str, Any] | None = None  # by stream: `values` and `statistics`
    hidden_size: int | None = None

    @classmethod
    def of(cls, streams: dict[str, Any], trunk: dict[str, Any], modalities: Mapping[str, Modality]) -> "MmptConfig":
        """Of a recipe's streams, all or one alone, and its trunk."""
        facts = {name: plain_facts(modality.facts, "tokenizer/" + name) for name, modality in modalities.items()}
        return cls(streams=streams, order=list(streams), trunk=trunk, facts=facts, hidden_size=trunk["width"])


@dataclass
class MmptOutput(ModelOutput):
    """Latents of the streams, side by side and one by one; those of padding mean nothing."""

    last_hidden_state: Float[Tensor, "B S D"] | None = None
    valid: Bool[Tensor, "B S"] | None = None
    latents: dict[str, Float[Tensor, "B N D"]] | None = None


class MmptModel(PreTrainedModel):
    """Encoders and trunk of a pretrained run.

    Weights have the names that they have in a run's checkpoint. Loss and heads are the caller's.
    """

    config_class = MmptConfig
    main_input_name = "inputs"
    _supports_sdpa = True

    def __init__(self, config: MmptConfig) -> None:
        super().__init__(config)
        streams = {name: (config.streams or {})[name] for name in config.order or ()}
        self.modalities = read_modalities(streams, config.facts or {}, Path(config.name_or_path or "."))
        trunk = _part(Trunk, config.trunk).build(len(self.modalities))
        self.backbone = Backbone(self.modalities, trunk)
        names = set(self.state_dict())
        self._tables = {name: value.clone() for name, value in self.named_buffers() if name not in names}
        self.post_init()
        for part in self.modules():
            cast(
                "Any", part
            )._is_hf_initialized = False  # or loading, which empties the tables, would not have them filled again

    def forward(self, **inputs: Tensor) -> MmptOutput:
        """Tensors as MmptFeatureExtractor makes them; raises DataError for names that are none of its.

        Streams that the batch lacks may be left out.
        """
        tokens = self.backbone(batch_of(inputs, self.modalities))
        latents = {name: own.x for name, own in tokens.items()}
        valid = torch.cat([own.valid for own in tokens.values()], dim=1)
        return MmptOutput(torch.cat(list(latents.values()), dim=1), valid, latents)

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        """Weights are made with the parts; fixed tables, which no file has, transformers empties when it loads."""
        for name, value in self._tables.items():
            owner, _, own = name.rpartition(".")
            if self.get_submodule(owner) is module:
                module.get_buffer(own).copy_(value)

    @classmethod
    def get_init_context(cls, *arguments: Any, **settings: Any) -> list[Any]:
        """Without the meta device: fixed tables are computed when parts are made."""
        contexts = super().get_init_context(*arguments, **settings)
        return [own for own in contexts if not isinstance(own, torch.device)]


class MmptFeatureExtractor(FeatureExtractionMixin):
    """Raw samples -> the model's inputs, as `mmpt.load(...).encode` reads them.

    Args:
        streams: as in the model's config. facts: likewise.
        folder: that tokenizers lie in, as `facts` name them.
    """

    streams: dict[str, Any]
    facts: dict[str, Any]
    folder: str

    def __init__(self, streams: dict[str, Any], facts: dict[str, Any], folder: str = ".", **settings: Any) -> None:
        super().__init__(streams=streams, facts=facts, folder=folder, **settings)

    def __call__(self, samples: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> BatchFeature:
        """One dict a sample, by stream; what is longer than the recipe lets it be is cut.

        Raises:
            DataError: an unknown stream, or a value that is no such sample's; names the sample and the field.
        """
        modalities = read_modalities(self.streams, self.facts, Path(self.folder))
        rows = [_read(number, sample, modalities) for number, sample in enumerate(_listed(samples))]
        there = [name for name in modalities if any(name in row for row in rows)]
        contents = {
            name: modalities[name].collate([[row[name]] if name in row else [] for row in rows], None) for name in there
        }
        return BatchFeature(flat_inputs(contents, modalities))

    @classmethod
    def of(cls, streams: dict[str, Any], modalities: Mapping[str, Modality]) -> "MmptFeatureExtractor":
        """Of modalities whose tokenizers lie anywhere."""
        facts = {}
        for name, modality in modalities.items():
            own = modality.facts.folder / modality.facts.values.get("tokenizer", "")
            facts[name] = plain_facts(modality.facts, str(own.absolute()))
        return cls(streams, facts)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], *given: Any, **settings: Any) -> Any:
        """From a folder; raises OSError where there is none."""
        made = super().from_pretrained(pretrained_model_name_or_path, *given, **settings)
        made.folder = str(pretrained_model_name_or_path)
        return made

    def save_pretrained(self, save_directory: str | PathLike[str], *given: Any, **settings: Any) -> Any:
        """Settings and tokenizers."""
        for stream, facts in self.facts.items():
            if "tokenizer" in facts["values"]:
                source, own = Path(self.folder) / facts["values"]["tokenizer"], f"tokenizer/{stream}"
                target = Path(save_directory) / own
                if source.resolve() != target.resolve():
                    shutil.copytree(source, target, dirs_exist_ok=True)
                facts["values"]["tokenizer"] = own
        self.folder = str(save_directory)
        return super().save_pretrained(save_directory, *given, **settings)

    def to_dict(self) -> dict[str, Any]:
        """All but where it lies."""
        return {name: value for name, value in super().to_dict().items() if name != "folder"}


def read_modalities(streams: Any, facts: Any, folder: Path) -> dict[str, Modality]:
    """Modalities as a config has them."""
    parts = {name: _part(Modality, plain) for name, plain in streams.items()}
    known = {name: Facts(folder, own["values"], own["statistics"]) for name, own in facts.items()}
    return build_modalities(parts, known)


def _part(contract: type[T], plain: Any) -> Component[T]:
    settings = dict(plain)
    return component(contract, settings.pop("type"), **settings)


def plain_facts(facts: Facts, tokenizer: str) -> dict[str, Any]:
    """What JSON can hold of them; `tokenizer` is where the stream's lies, if it has one."""
    values = {name: tokenizer if name == "tokenizer" else value for name, value in facts.values.items()}
    statistics = {name: value for name, value in facts.statistics.items() if name not in LEFT_BEHIND}
    return {"values": values, "statistics": statistics}


def _listed(samples: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [cast("Mapping[str, Any]", samples)] if isinstance(samples, Mapping) else list(samples)


def _read(number: int, sample: Mapping[str, Any], modalities: Mapping[str, Modality]) -> dict[str, Any]:
    values = {}
    for name, value in sample.items():
        if name not in modalities:
            raise DataError(f"sample {number}: no stream '{name}'; there are {', '.join(modalities)}")
        try:
            values[name] = read_value(modalities[name], value)[0]
        except DataError as error:
            raise DataError(f"sample {number}: field '{name}': {error}") from error
    return values


AutoConfig.register("mmpt", MmptConfig)
AutoModel.register(MmptConfig, MmptModel)
AutoFeatureExtractor.register(MmptConfig, MmptFeatureExtractor)
