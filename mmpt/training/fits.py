"""Whether another model's weights mean in a recipe what they meant before; every refusal says what to set."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.image import Image
from mmpt.encoders.recording import Recorded
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError
from mmpt.foreign.donor import Donor
from mmpt.foreign.text_facts import same_tokens
from mmpt.settings import InitSettings, Recipe

SAME = ("depth", "width", "heads", "norm", "norm_entry", "norm_eps", "rotary_base", "top_layers")  # of both trunks
FREE = (  # settings of a stream that change nothing of what weights mean
    *("max_length", "size", "crop_scale", "flip", "max_seconds", "sample_rate", "resample"),
    *("gradient_scale",),
)
NOT_OF_WEIGHTS = ("tokenizer", "sha256", "vocabulary", "bos", "eos", "pad", "mask", "unk", "units", "scores")  # facts
RUN = "run of mmpt"


def paired(settings: InitSettings, modalities: Mapping[str, Modality], donor: Donor) -> dict[str, str]:
    """Which of the recipe's streams begins as which of the other model's."""
    pairs = settings.streams
    if pairs is None and donor.kind == RUN:
        pairs = {name: name for name in modalities if name in donor.modalities}
    elif pairs is None:
        ((theirs, there),) = donor.modalities.items()
        alike = [name for name, own in modalities.items() if type(own) is type(there)]
        if len(alike) > 1:
            raise ConfigError(
                f"init_from.streams: {' and '.join(alike)} could take {donor.where}; say {{{alike[0]}: {theirs}}}"
            )
        pairs = dict.fromkeys(alike, theirs)
    for ours, theirs in pairs.items():
        if ours not in modalities or theirs not in donor.modalities:
            raise ConfigError(
                f"init_from.streams: expected streams of this recipe ({', '.join(modalities)}) and of {donor.where} "
                f"({', '.join(donor.modalities)}), got {ours}: {theirs}"
            )
    if not pairs:
        raise ConfigError(
            f"init_from: {donor.where} reads {', '.join(donor.modalities)}, this recipe {', '.join(modalities)}, and "
            "no stream is shared; say `streams: {ours: theirs}` where they have other names"
        )
    missing = [name for name in modalities if name not in pairs]
    if missing and not settings.partial:
        raise ConfigError(
            f"init_from: {donor.where} has no weights for {' and '.join(missing)}; to begin there with fresh ones say "
            f"init_from: {{path: {settings.path}, partial: true}}"
        )
    return dict(pairs)


def check_trunk(recipe: Recipe, donor: Donor) -> None:
    """The trunks compute the same."""
    ours, theirs = recipe.trunk, donor.recipe.trunk
    if ours.target is not theirs.target:
        raise ConfigError(f"init_from: trunk: this is a {ours.name} and {donor.where} has a {theirs.name}")
    changes = [name for name in SAME if ours.settings[name] != theirs.settings[name]]
    if changes:
        wanted = ", ".join(f"trunk.{name}={_said(theirs.settings[name])}" for name in changes)
        found = ", ".join(_said(ours.settings[name]) for name in changes)
        raise ConfigError(f"init_from: {donor.where} needs {wanted}, this recipe has {found}; set them to the model's")
    for name in ("feedforward", "top_feedforward"):
        one, other = (part.settings[name] and part.settings[name].name for part in (ours, theirs))
        if one != other:
            raise ConfigError(f"init_from: trunk.{name} is {one} here and {other} in {donor.where}; nothing was loaded")


def check_stream(ours: str, own: Modality, theirs: str, donor: Donor) -> None:
    """Weights mean the same in both: settings, tokenizer, facts."""
    other, where = donor.modalities[theirs], f"init_from: streams.{ours}"
    if type(own) is not type(other):
        kinds = (type(part).__name__.lower() for part in (own, other))
        raise ConfigError(f"{where}: is {next(kinds)} here and {next(kinds)} in {donor.where}; nothing was loaded")
    fitted = ("positions",) if isinstance(own, Text | Image) else ()  # `placed` knows what becomes of theirs
    for name in (item.name for item in dataclasses.fields(cast("Any", own))):
        if name not in ("facts", *FREE, *fitted) and getattr(own, name) != getattr(other, name):
            raise ConfigError(
                f"{where}.{name}: {_said(getattr(own, name))} here and {_said(getattr(other, name))} in {donor.where}; "
                "set it to the model's"
            )
    if isinstance(own, Text) and isinstance(other, Text) and not same_tokens(own, other):
        tokenizer = other.facts.folder / other.facts.values["tokenizer"]
        raise ConfigError(
            f"{where}: the shards were built with another tokenizer than that of {donor.where}, whose embeddings would "
            f"stand for other tokens; build them again with --tokenizer {tokenizer}"
        )
    if isinstance(own, Recorded) and isinstance(other, Recorded) and own.rate != other.rate:
        raise ConfigError(
            f"{where}.sample_rate: {own.rate:g} Hz here and {other.rate:g} Hz in {donor.where}; set "
            f"sample_rate: {other.rate:g} and resample: true"
        )
    for name, value in other.facts.values.items():
        if (
            name in own.facts.values
            and name not in (*NOT_OF_WEIGHTS, "sample_rate")
            and own.facts.values[name] != value
        ):
            raise ConfigError(f"{where}: the data's {name} are not those of {donor.where}; nothing was loaded")


def check_shapes(weights: Mapping[str, Tensor], state: Mapping[str, Tensor], where: Path) -> None:
    """A backbone takes these weights; names a tensor and both shapes where it doesn't."""
    for name, value in weights.items():
        if name not in state:
            raise ConfigError(f"init_from: {where} has weights 'backbone.{name}', which this model has no place for")
        if value.shape != state[name].shape:
            raise ConfigError(
                f"init_from: weights 'backbone.{name}' have shape {tuple(value.shape)} in {where} and "
                f"{tuple(state[name].shape)} in this recipe; nothing was loaded"
            )
    missing = [name for name in state if name.startswith("encoders.") and name not in weights]
    taken = {name.split(".")[1] for name in weights if name.startswith("encoders.")}
    for name in missing:
        if name.split(".")[1] in taken:
            raise ConfigError(f"init_from: {where} has no weights 'backbone.{name}'; nothing was loaded")


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
