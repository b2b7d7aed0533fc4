"""What a model begins with: weights by our names, and what they mean, of a folder of another library."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmpt.build import build_backbone, build_modalities
from mmpt.config import component
from mmpt.data.source import SourceSettings
from mmpt.encoders import Facts, Modality
from mmpt.errors import CheckpointError, ConfigError
from mmpt.foreign import Family
from mmpt.foreign.entries import Entry
from mmpt.foreign.folder import CONFIG, Weights, read_file, read_json, read_weights
from mmpt.foreign.positions import placed
from mmpt.foreign.timm import Timm, of_architecture, of_export, pixels_of, size_of
from mmpt.objectives import Objective
from mmpt.parts import find_parts
from mmpt.settings import DataSettings, OptimizerSettings, Recipe, TrainingSettings
from mmpt.trunk import Trunk

PREFIX = "backbone."
ELSEWHERE = "elsewhere"  # the source of a model whose data nobody knows
CHANGEABLE = ("size", "max_length", "max_seconds")
STREAM = "backbone.trunk.stream_embedding.weight"
OBJECTIVES = {  # how such a stream is usually pretrained; only a recipe that is written down needs it
    "text": {
        "masking": {"ratio": 0.15},
        "corruption": {"type": "replace", "keep": 0.1, "random": 0.1},
        "predictor": "tied",
        "target": "token_ids",
    },
    "image": {
        "masking": {"ratio": 0.75},
        "corruption": "drop",
        "predictor": {"type": "decoder", "width": 512, "depth": 8, "heads": 16},
        "target": {"type": "pixels", "normalize": True},
    },
    "speech": {
        "masking": {"ratio": 0.5, "unit": {"type": "span", "length": 10}},
        "corruption": "replace",
        "predictor": "mlp",
        "target": "log_mel",
    },
}


class WeightsWarning(UserWarning):
    """Something about a model was assumed, or made anew; says what."""


class Donor(NamedTuple):
    """A model that another one may begin with."""

    where: Path
    kind: str  # for people
    recipe: Recipe
    modalities: Mapping[str, Modality]
    weights: dict[str, Tensor]  # names of a MaskedModel; of its objective perhaps a part
    left: tuple[str, ...]  # the folder's weights that have no place here
    notices: tuple[str, ...]  # of what was assumed
    sha256: dict[str, str]  # of the files of weights
    step: int | None = None  # of a run's checkpoint
    heads: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # our weights of an objective -> theirs, of them alone


def is_foreign(path: Path, weights: Path | None = None) -> bool:
    """Whether it is to be read here: no run, but a folder with a config.json, or an architecture with `weights`."""
    return weights is not None or ((path / CONFIG).exists() and not (path / "recipe.yaml").exists())


def read_donor(path: Path, weights: Path | None = None, settings: Mapping[str, Any] = MappingProxyType({})) -> Donor:
    """A folder of transformers or timm, or a name of timm's and a file of `weights`.

    Args:
        path: the folder, or the name.
        weights: a .safetensors file.
        settings: of the stream, in place of the model's own: `size`, `max_length` or `max_seconds`.

    Raises:
        ConfigError: a model that no backbone can be; says which setting is in the way.
        CheckpointError: files that are missing or broken, and weights of other names or shapes.
    """
    family, given = read_family(path, weights)
    facts, notices = family.facts(path)
    recipe = _recipe(path, family, facts)
    modalities = build_modalities(recipe.streams, {family.modality: facts})
    taken, left, heads = _taken(family, facts, given, recipe, modalities, weights or path)
    donor = Donor(path, family.kind, recipe, modalities, taken, left, tuple(notices), given.sha256, heads=heads)
    return changed(donor, settings) if settings else donor


def read_family(path: Path, weights: Path | None = None) -> tuple[Family, Weights]:
    """The part that knows the model, its settings read, and the folder's tensors as they stand there."""
    file = path / CONFIG if weights is None else path
    if weights is not None and path.is_dir():
        raise ConfigError(f"{path}: is a folder, and has its own weights; give 'weights' with a name of timm's alone")
    family = _family(read_json(file) if weights is None else {"architecture": str(path)}, file)
    given = read_weights(path) if weights is None else read_file(weights)
    if isinstance(family, Timm):
        family = Timm(size_of(given.tensors, family.settings))
    return family, given


def changed(donor: Donor, settings: Mapping[str, Any]) -> Donor:
    """With other settings of its one stream; positions are interpolated, with a notice."""
    ((stream, old),) = donor.modalities.items()
    part = donor.recipe.streams[stream]
    free = [name for name in CHANGEABLE if name in part.settings]
    for name in settings:
        if name not in free:
            raise ConfigError(f"settings: expected {' or '.join(free)} of this {donor.kind}, got {name}")
    new = component(Modality, part.name, **{**part.settings, **settings})
    recipe = replace(donor.recipe, streams={stream: new})
    modalities = build_modalities(recipe.streams, {stream: old.facts})
    before = f"{PREFIX}encoders.{stream}."
    own = {name.removeprefix(before): value for name, value in donor.weights.items() if name.startswith(before)}
    fitting, notices = placed(own, old, modalities[stream], recipe.trunk.settings["width"], str(donor.where))
    weights = {**donor.weights, **{before + name: value for name, value in fitting.items()}}
    return donor._replace(recipe=recipe, modalities=modalities, weights=weights, notices=(*donor.notices, *notices))


def _family(plain: Mapping[str, Any], file: Path) -> Family:
    """The part for a model type, with its settings read."""
    if "architecture" in plain:
        known = of_architecture(str(plain["architecture"]), **plain.get("model_args", {}))
        return Timm(known | pixels_of(plain.get("pretrained_cfg", {}), file))
    if {"model", "norm_eps", "pretrained_cfg"} <= plain.keys():
        return Timm(of_export(plain, str(file)))
    families = find_parts("mmpt.foreign", Family)
    families.pop("timm")
    name = plain.get("model_type")
    if name is None:
        raise CheckpointError(f"{file}: has no model_type, so it is neither of transformers nor of timm")
    if name == "mmpt":
        raise ConfigError(
            f"{file}: is an export for AutoModel, after 'import mmpt.transformers'; for mmpt.load and all that takes a "
            "run, export with --to safetensors"
        )
    kind = families.get(str(name).replace("-", "_"))
    if kind is None:
        able = ", ".join(names.replace("roberta_p", "roberta-p") for names in families)
        raise ConfigError(
            f"{file}: model_type '{name}' can't be a backbone of mmpt; those that can are {able} and timm's"
        )
    return kind(_settings(kind, plain, file))


def _settings(kind: type[Any], plain: Mapping[str, Any], file: Path) -> dict[str, Any]:
    for name, allowed in kind.only.items():
        found = plain.get(name, allowed)
        if (found or None) != (allowed or None):
            raise ConfigError(
                f"{file}: {name} is {_said(found)}, and a backbone has only {_said(allowed)}; this model can't be "
                f"loaded, another {kind.kind} with {name} {_said(allowed)} can"
            )
    settings = {}
    for name, default in kind.needs.items():
        value = plain.get(name, default)
        if isinstance(value, list):
            value = tuple(value)
        expected = type(default) if default is not None else int
        if expected is float and type(value) is int:
            value = float(value)
        if name not in ("image_size", "patch_size") and type(value) is not expected:
            raise ConfigError(f"{file}: {name}: expected {expected.__name__}, got {_said(value)}")
        settings[name] = value
    return settings


def _said(value: Any) -> str:
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _recipe(path: Path, family: Family, facts: Facts) -> Recipe:
    """As if a run had made it: what a fine-tuned task or an export writes down."""
    stream = family.modality
    objective = {"type": "masked_prediction", "streams": {stream: OBJECTIVES[stream]}}
    return Recipe(
        streams={stream: component(Modality, stream, **family.stream(facts))},
        trunk=component(Trunk, "transformer", **family.trunk()),
        objective=component(Objective, objective["type"], streams=objective["streams"]),
        data=DataSettings(sources={ELSEWHERE: SourceSettings(shards=path, streams=(stream,))}, batch_size=1),
        training=TrainingSettings(steps=1, optimizer=OptimizerSettings(learning_rate=1e-4)),
    )


def _taken(
    family: Family,
    facts: Facts,
    given: Weights,
    recipe: Recipe,
    modalities: Mapping[str, Modality],
    where: Path,
) -> tuple[dict[str, Tensor], tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Ours, the names of theirs that have no place, and those that only an objective has a place for."""
    inner, outer = _divided(given.tensors, family.inside)
    entries = family.entries(facts)
    like = {PREFIX + name: value for name, value in build_backbone(recipe, modalities).state_dict().items()}
    _check_names(entries, inner, family, where)
    taken = {entry.ours: _fitted(entry, inner, like[entry.ours], where) for entry in entries}
    if STREAM not in taken:
        taken[STREAM] = torch.zeros_like(like[STREAM])  # such models have no embedding of the modality
    own = {name: value for name, value in like.items() if name not in taken}  # statistics of pixels, of the facts
    before = next(iter(family.inside), "")
    every = outer | {before + name: value for name, value in inner.items()}
    heads = [entry for entry in family.objective_entries(facts) if all(name in every for name in entry.theirs)]
    encoding = {before + name for name in _names(entries)}
    bare = before and not any(name.startswith(before) for name in given.tensors)
    called = {name: name.removeprefix(before) if bare else name for name in every}
    left = tuple(called[name] for name in every if name not in encoding | _names(heads))
    alone = {e.ours: tuple(called[name] for name in e.theirs if name not in encoding) for e in heads}
    return taken | own | {entry.ours: entry.take(every).float().clone() for entry in heads}, left, alone


def _names(entries: Sequence[Entry]) -> set[str]:
    return {name for entry in entries for name in entry.theirs}


def _divided(tensors: Mapping[str, Tensor], inside: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The encoder's weights without what stands before them, and all others."""
    for before in inside:
        inner = {name.removeprefix(before): value for name, value in tensors.items() if name.startswith(before)}
        if inner:
            return inner, {name: value for name, value in tensors.items() if not name.startswith(before)}
    return dict(tensors), {}


def _check_names(entries: Sequence[Entry], inner: Mapping[str, Tensor], family: Family, where: Path) -> None:
    wanted = _names(entries)
    missing = sorted(wanted - inner.keys())
    unexpected = sorted(name for name in inner.keys() - wanted if not name.startswith(family.left))
    if not missing and not unexpected:
        return
    lacks = f"lacks {_counted(missing)} of a {family.kind}" if missing else ""
    more = f"has {_counted(unexpected)} that a backbone has no place for" if unexpected else ""
    raise CheckpointError(f"{where}: {' and '.join(part for part in (lacks, more) if part)}; nothing was loaded")


def _counted(names: Sequence[str], shown: int = 3) -> str:
    listed = ", ".join(f"'{name}'" for name in names[:shown])
    return f"the weights {listed}" + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _fitted(entry: Entry, inner: Mapping[str, Tensor], like: Tensor, where: Path) -> Tensor:
    """Ours, float32; raises CheckpointError for a tensor of another shape than config.json says."""
    expected = {name: tuple(part.shape) for name, part in entry.give(torch.empty_like(like, device="meta")).items()}
    for name, shape in expected.items():
        found = tuple(inner[name].shape)
        types = name.endswith("token_type_embeddings.weight") and found[1:] == shape[1:] and found[0] >= 1
        if found != shape and not types:
            raise CheckpointError(
                f"{where}: weights '{name}' have shape {found}, and the model's settings ask for {shape}"
            )
    return entry.take(inner).float().contiguous()
