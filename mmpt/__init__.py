"""Multimodal masked-modelling pretraining: one trunk, plain WebDataset shards, DeepSpeed.

The names below are the public ones; each is imported when it is first asked for, so that `import mmpt` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmpt.data.builders.ecg import build_ecg
    from mmpt.data.builders.images import build_images
    from mmpt.data.builders.labs import build_labs
    from mmpt.data.builders.speech import build_speech
    from mmpt.data.builders.text import build_text
    from mmpt.data.builders.video import build_video
    from mmpt.data.index import index_folder
    from mmpt.data.inspect import inspect_folder
    from mmpt.data.manifest import Manifest, load_manifest
    from mmpt.data.writer import ShardWriter
    from mmpt.downstream.columns import with_columns
    from mmpt.downstream.encoder import Encoder, load
    from mmpt.downstream.pooling import Features
    from mmpt.downstream.probe import probe
    from mmpt.downstream.result import ProbeResult
    from mmpt.encoders.lab_text import serialise_labs
    from mmpt.errors import CheckpointError, ConfigError, DataError, Interrupted, MmptError
    from mmpt.training.command import pretrain

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Encoder",
    "Features",
    "Interrupted",
    "Manifest",
    "MmptError",
    "ProbeResult",
    "ShardWriter",
    "build_ecg",
    "build_images",
    "build_labs",
    "build_speech",
    "build_text",
    "build_video",
    "index_folder",
    "inspect_folder",
    "load",
    "load_manifest",
    "pretrain",
    "probe",
    "serialise_labs",
    "with_columns",
]

_HOMES = {
    "mmpt.data.builders.ecg": ("build_ecg",),
    "mmpt.data.builders.images": ("build_images",),
    "mmpt.data.builders.labs": ("build_labs",),
    "mmpt.data.builders.speech": ("build_speech",),
    "mmpt.data.builders.text": ("build_text",),
    "mmpt.data.builders.video": ("build_video",),
    "mmpt.data.index": ("index_folder",),
    "mmpt.data.inspect": ("inspect_folder",),
    "mmpt.data.manifest": ("Manifest", "load_manifest"),
    "mmpt.data.writer": ("ShardWriter",),
    "mmpt.downstream.columns": ("with_columns",),
    "mmpt.downstream.encoder": ("Encoder", "load"),
    "mmpt.downstream.pooling": ("Features",),
    "mmpt.downstream.probe": ("probe",),
    "mmpt.downstream.result": ("ProbeResult",),
    "mmpt.encoders.lab_text": ("serialise_labs",),
    "mmpt.errors": ("CheckpointError", "ConfigError", "DataError", "Interrupted", "MmptError"),
    "mmpt.training.command": ("pretrain",),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "finetune":  # a room of its own: mmpt.finetune.Classifier
        return import_module("mmpt.finetune")
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(module), name)
            globals()[name] = value  # the next look finds it without coming here
            return value
    raise AttributeError(f"module 'mmpt' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
