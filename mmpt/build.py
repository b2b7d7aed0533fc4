"""Settings -> modalities, backbone, model, sources: each built once, from a recipe or from a finished run."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmpt.config import Component, FrozenDict
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.source import Source
from mmpt.data.unit_labels import unit_facts, unit_places
from mmpt.encoders import Facts, Modality
from mmpt.errors import CheckpointError, ConfigError
from mmpt.model import Backbone, MaskedModel
from mmpt.objectives.frozen import FrozenRun
from mmpt.objectives.paired import Paired
from mmpt.objectives.teacher import Teacher
from mmpt.pools import Pool
from mmpt.settings import Recipe

POOL = "objective.pool."  # what names of its weights begin with


def facts_of(recipe: Recipe) -> dict[str, Facts]:
    """What the data sets say of every stream; raises ConfigError where two of them disagree."""
    facts: dict[str, Facts] = {}
    origin: dict[str, str] = {}
    for name, source in recipe.data.sources.items():
        manifest = load_manifest(source.shards)
        for stream in source.streams:
            if stream not in manifest.fields:
                there = ", ".join(manifest.fields)
                raise ConfigError(f"data.sources.{name}: {source.shards} has no field '{stream}'; it has {there}")
            mine = _facts(manifest, stream)
            if stream in source.units:
                mine = replace(
                    mine,
                    values={**mine.values, "units": [unit_facts(place) for place in unit_places(source.units[stream])]},
                )
            if stream in source.scores:
                mine = replace(mine, values={**mine.values, "scores": True})
            _check_scores(facts.get(stream), mine, f"data.sources.{name}", origin.get(stream, ""), stream)
            _check_units(facts.get(stream), mine, f"data.sources.{name}", origin.get(stream, ""), stream)
            if stream in facts and _identity(facts[stream]) != _identity(mine):
                raise ConfigError(
                    f"data.sources.{name}: field '{stream}' was built with another tokenizer or rate than in source "
                    f"'{origin[stream]}'; build it again with that one (mmpt build ... --tokenizer)"
                )
            facts.setdefault(stream, mine)
            origin.setdefault(stream, name)
    missing = [stream for stream in recipe.streams if stream not in facts]
    if missing:
        advice = "name it in a source's `streams`, or remove it"
        raise ConfigError(f"streams.{missing[0]}: no source feeds this stream; {advice}")
    return {stream: facts[stream] for stream in recipe.streams}


def _check_units(before: Facts | None, mine: Facts, where: str, other: str, stream: str) -> None:
    theirs, own = (None if facts is None else facts.values.get("units") for facts in (before, mine))
    if before is not None and theirs != own:
        raise ConfigError(
            f"{where}.units: stream '{stream}' has {_codebook(own)} here and {_codebook(theirs)} in source '{other}'; "
            "label all of its sources with the same codebooks"
        )


def _check_scores(before: Facts | None, mine: Facts, where: str, other: str, stream: str) -> None:
    if before is not None and before.values.get("scores") != mine.values.get("scores"):
        raise ConfigError(
            f"{where}.scores: stream '{stream}' has scores in one of this source and '{other}' alone; give them to all "
            "of its sources, or to none"
        )


def _codebook(units: Sequence[Mapping[str, Any]] | None) -> str:
    return f"units of codebook {', '.join(own['codebook'] for own in units)}" if units else "no units"


def _facts(manifest: Manifest, stream: str) -> Facts:
    return Facts(manifest.folder, manifest.fields[stream].facts, manifest.statistics.get(stream, {}))


def _identity(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in facts.values.items() if name != "tokenizer"}


def build_modalities(streams: Mapping[str, Component[Modality]], facts: Mapping[str, Facts]) -> dict[str, Modality]:
    """One modality a stream."""
    return {name: component.build(facts[name]) for name, component in streams.items()}


def build_backbone(recipe: Recipe, modalities: Mapping[str, Modality]) -> Backbone:
    """Encoders and trunk with fresh weights that depend on training.seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return Backbone(modalities, recipe.trunk.build(len(modalities)))


def build_model(
    recipe: Recipe, modalities: Mapping[str, Modality], begin: Callable[[Backbone], object] | None = None
) -> MaskedModel:
    """Backbone and objective with fresh weights that depend on training.seed alone.

    `begin` may fill the backbone with others before the objective is built on it: a teacher is a copy of it.
    """
    backbone = build_backbone(recipe, modalities)
    if begin is not None:
        begin(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed + 1)
        model = MaskedModel(backbone, recipe.objective.build(backbone, modalities))
    _check_pairs(model, recipe)
    return model


def pool_of(recipe: Recipe) -> Component[Pool] | None:
    """What makes one vector of a row, where the objective has such a part: its setting `pool`."""
    part = recipe.objective.settings.get("pool")
    return part if isinstance(part, Component) and issubclass(part.target, Pool) else None


def build_pool(recipe: Recipe, width: int, weights: Mapping[str, torch.Tensor] | None) -> Pool | None:
    """The objective's pool, frozen, with a checkpoint's weights; without one with those that the run began with.

    None where there is no pool, or a checkpoint lacks its weights: a fitted task's has a head in the objective's place.
    """
    part = pool_of(recipe)
    if part is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed + 1)  # as `build_model` does; the objective draws its pool first
        pool = part.build(width)
    if weights is not None and pool.state_dict():
        if not any(name.startswith(POOL) for name in weights):
            return None
        load_weights(pool, weights, prefix=POOL)
    return pool.requires_grad_(False).eval()


def _check_pairs(model: MaskedModel, recipe: Recipe) -> None:
    """A loss on pairs needs a source of them, and one that tells pairs apart needs false ones."""
    for part in model.modules():
        for name, pair in part.losses().items() if isinstance(part, Paired) else ():
            where, (one, other) = f"objective.pairs.{name}", pair.streams
            both = [own for own in recipe.data.sources.values() if {one, other} <= set(own.streams)]
            if not both:
                raise ConfigError(f"{where}.streams: no source has samples with both {one} and {other}")
            if pair.needs_unmatched and not all(own.negatives for own in both):
                raise ConfigError(
                    f"{where}: it learns to tell true pairs from false ones, and not all sources of {one} and {other} "
                    "have false ones; give them `negatives: {stream: ...}`"
                )


def build_sources(recipe: Recipe, modalities: Mapping[str, Modality]) -> list[Source]:
    """The mixture's data sets, laid out."""
    seed = recipe.training.seed
    items = enumerate(recipe.data.sources.items())
    return [Source(name, number, settings, modalities, seed) for number, (name, settings) in items]


def check_rows(model: MaskedModel, sources: Sequence[Source]) -> None:
    """An objective that makes one vector of a row can have no packed ones; rows that only are negatives ask for one."""
    for source in sources:
        if source.hard is not None and not model.objective.compares_rows:
            raise ConfigError(
                f"data.sources.{source.name}.hard: this objective does not compare rows, and would train on negatives "
                "as on any sample; use objective=embedding, or leave it out"
            )
        if model.objective.one_document and source.plan.row_size is not None:
            raise ConfigError(
                f"data.sources.{source.name}.layout: this objective makes one vector of a row, and packed rows hold "
                "several documents; use layout=samples or layout=budget"
            )


def source_weights(recipe: Recipe, sources: Sequence[Source]) -> list[float]:
    """Relative share of the steps of each source, as multilingual BERT samples languages (Devlin et al. 2018)."""
    weights = [settings.weight for settings in recipe.data.sources.values()]
    temperature = recipe.data.temperature
    if temperature is None:
        return weights
    return [
        weight * source.tokens_per_epoch ** (1 / temperature) for weight, source in zip(weights, sources, strict=True)
    ]


def save_facts(run: Path, facts: Mapping[str, Facts]) -> None:
    """Copy what the encoders need of the data sets, so that a run stands on its own."""
    plain = {}
    for stream, fact in facts.items():
        values = dict(fact.values)
        if "tokenizer" in values:
            kept = run / "tokenizer" / stream
            shutil.copytree(fact.folder / values["tokenizer"], kept, dirs_exist_ok=True, ignore=_no_tokenizer)
            values["tokenizer"] = f"tokenizer/{stream}"
        plain[stream] = {"values": values, "statistics": dict(fact.statistics)}
    (run / "facts.json").write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _no_tokenizer(folder: str, names: list[str]) -> list[str]:
    """What else lies in a folder with a tokenizer: another library's has weights beside it."""
    return [
        name
        for name in names
        if not name.startswith(("tokenizer", "special_tokens", "added_tokens", "vocab", "merges"))
    ]


def load_facts(run: Path) -> dict[str, Facts]:
    """What `save_facts` kept."""
    try:
        plain = json.loads((run / "facts.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{run / 'facts.json'}: missing or unreadable ({error}); is {run} a run folder?"
        ) from error
    return {
        name: Facts(run, FrozenDict(fact["values"]), FrozenDict(fact["statistics"])) for name, fact in plain.items()
    }


def load_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, prefix: str = "") -> None:
    """Copy weights and buffers by name: all of them, or none and CheckpointError for what is missing or misshapen."""
    parameters = dict(model.named_parameters())
    buffers = {name: value for name, value in model.state_dict().items() if name not in parameters}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(parameters)
    wanted = {**parameters, **{name: value for name, value in buffers.items() if name not in tied}}
    for name, value in wanted.items():
        if prefix + name not in weights:
            raise CheckpointError(f"the checkpoint has no weights '{prefix + name}'; it is of another model")
        given = weights[prefix + name]
        if given.shape != value.shape:
            shapes = f"{tuple(given.shape)} in the checkpoint and {tuple(value.shape)} in the model"
            raise CheckpointError(f"weights '{prefix + name}' have shape {shapes}")
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(weights[prefix + name])


def count_parameters(modules: Sequence[torch.nn.Module]) -> int:
    """Each parameter once."""
    return sum(p.numel() for p in {id(p): p for module in modules for p in module.parameters()}.values())


def parameter_counts(model: MaskedModel) -> dict[str, int]:
    """By part; the objective's are those that the backbone does not share. A teacher is counted by itself."""
    backbone = model.backbone
    teachers = [part for part in model.modules() if isinstance(part, Teacher)]
    frozen = {f"{part.run} (frozen, not saved)": part.size for part in model.modules() if isinstance(part, FrozenRun)}
    copied = count_parameters(teachers)
    encoders = {f"encoder {name}": count_parameters([module]) for name, module in backbone.encoders.items()}
    whole, shared = count_parameters([model]) - copied, count_parameters([backbone])
    return {
        **encoders,
        "trunk": count_parameters([backbone.trunk]),
        "objective": whole - shared,
        "all": whole,
        **({"teacher (a copy, not trained)": copied} if teachers else {}),
        **frozen,
    }
