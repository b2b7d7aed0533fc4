"""`init_from`: a run that begins with the weights of another model; what fits is checked before anything is changed."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmpt.build import build_modalities, load_facts
from mmpt.data.manifest import sha256_of
from mmpt.encoders import Modality
from mmpt.encoders.text import Text
from mmpt.errors import CheckpointError, ConfigError
from mmpt.foreign.donor import Donor, is_foreign, read_donor
from mmpt.foreign.origin import Origin
from mmpt.foreign.positions import placed
from mmpt.model import Backbone, MaskedModel
from mmpt.settings import InitSettings, Recipe
from mmpt.training import checkpoint
from mmpt.training.fits import RUN, check_shapes, check_stream, check_trunk, paired
from mmpt.training.run import load_recipe, run_and_step
from mmpt.trunk.feedforward.modality_experts import ModalityExperts

PREFIX = "backbone."
EXPERT = re.compile(r"(.+)\.experts\.(\d+)\.(.+)")
BY_STREAM = (".stream_embedding.weight", ".stream_vector.weight")  # tables with a row a stream


class Beginning:
    """Another model's weights, read and found to fit.

    Args:
        recipe: of the run that begins.
        settings: its `init_from`.
        modalities: of its streams.

    Raises:
        ConfigError: a model that means something else by its weights; says which setting, and what to set.
        CheckpointError: files that are missing or broken.
    """

    def __init__(self, recipe: Recipe, settings: InitSettings, modalities: Mapping[str, Modality]) -> None:
        self.recipe, self.modalities, self.settings = recipe, modalities, settings
        self.donor = read_any(settings)
        self.streams = paired(settings, modalities, self.donor)
        check_trunk(recipe, self.donor)
        for ours, theirs in self.streams.items():
            check_stream(ours, modalities[ours], theirs, self.donor)
        self.loaded: list[str] = []
        self.taken: set[str] = set()  # of the donor
        self.notices = list(self.donor.notices)

    def fill(self, backbone: Backbone) -> None:
        """Put the weights in place: all that are shared, or none and an error that names a tensor and both shapes."""
        wanted = self._of_trunk(backbone)
        for ours, theirs in self.streams.items():
            wanted |= self._of_encoder(ours, theirs)
        state = backbone.state_dict()
        check_shapes(wanted, state, self.donor.where)
        with torch.no_grad():
            for name, value in wanted.items():
                state[name].copy_(value)
        self.loaded += [f"{PREFIX}{name}" for name in wanted]

    def finish(self, model: MaskedModel) -> Origin:
        """Heads, and what stands for hidden tokens, where both models have the same kind of them; then the record."""
        here, there = _kinds(self.recipe), _kinds(self.donor.recipe)
        parameters = dict(model.named_parameters())
        if model.objective.heir is not None:
            self._fill_heir(model, model.objective.heir)
        for ours, theirs in self.streams.items():
            for part in ("corruption", "predictor"):
                if (ours, part) in here and here[ours, part] is there.get((theirs, part)):
                    self._fill_part(parameters, *(f"objective.streams.{stream}.{part}." for stream in (ours, theirs)))
        fresh = tuple(name for name in parameters if name not in self.loaded and ".average." not in name)
        others = (name for name in self.donor.weights if name not in self.taken)
        heads = self.donor.heads
        left = (*self.donor.left, *(theirs for name in others for theirs in heads.get(name, (name,))))
        donor = self.donor
        record = (tuple(self.loaded), fresh, left, tuple(self.notices))
        return Origin(str(donor.where), donor.kind, donor.step, donor.sha256, *record)

    def _fill_heir(self, model: MaskedModel, heir: str) -> None:
        """The whole objective: what goes on by its losses would mean nothing with fresh weights in it."""
        weights, before = self.donor.weights, f"objective.{heir}."
        # what it shares with the backbone goes by the backbone's name
        once = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        for own, value in model.state_dict().items():
            if not own.startswith(before) or own not in once:
                continue
            name = "objective." + own.removeprefix(before)
            if name not in weights or weights[name].shape != value.shape:
                found = "none" if name not in weights else f"one of shape {tuple(weights[name].shape)}"
                raise ConfigError(
                    f"init_from: objective.{heir} takes over all weights of the objective of {self.donor.where}, and "
                    f"'{name}' has shape {tuple(value.shape)} here and there is {found} there; give it that run's parts"
                )
            with torch.no_grad():
                value.copy_(weights[name])
            self.loaded.append(own)
            self.taken.add(name)

    def _fill_part(self, parameters: Mapping[str, nn.Parameter], before: str, other: str) -> None:
        """All weights whose names begin so, or none."""
        pairs = {name: other + name.removeprefix(before) for name in parameters if name.startswith(before)}
        weights = self.donor.weights
        if not all(name in weights and weights[name].shape == parameters[own].shape for own, name in pairs.items()):
            return
        with torch.no_grad():
            for own, name in pairs.items():
                parameters[own].copy_(weights[name])
        self.loaded += pairs
        self.taken |= set(pairs.values())

    def _of_trunk(self, backbone: Backbone) -> dict[str, Tensor]:
        """What belongs to a stream follows it to its new number; that of streams which begin anew stays."""
        order = list(self.donor.modalities)
        numbers = {backbone.numbers[ours]: order.index(theirs) for ours, theirs in self.streams.items()}
        apart = [name for name, part in backbone.named_modules() if isinstance(part, ModalityExperts)]
        wanted = {}
        for name, value in backbone.trunk.state_dict(prefix="trunk.").items():
            expert = EXPERT.fullmatch(name)
            if name.endswith(BY_STREAM):
                wanted[name] = value.clone()
                wanted[name][list(numbers)] = self._given(name)[list(numbers.values())].to(value.dtype)
            elif expert is None or expert[1] not in apart:
                wanted[name] = self._given(name)
            elif int(expert[2]) in numbers:
                wanted[name] = self._given(f"{expert[1]}.experts.{numbers[int(expert[2])]}.{expert[3]}")
        return wanted

    def _of_encoder(self, ours: str, theirs: str) -> dict[str, Tensor]:
        before = f"{PREFIX}encoders.{theirs}."
        weights = {n.removeprefix(before): value for n, value in self.donor.weights.items() if n.startswith(before)}
        old, new = self.donor.modalities[theirs], self.modalities[ours]
        try:
            fitting, notices = placed(weights, old, new, self.recipe.trunk.settings["width"], str(self.donor.where))
        except ConfigError as error:
            raise ConfigError(f"init_from: streams.{ours}.{error}") from error
        table = fitting.get("embedding.weight")
        if isinstance(new, Text) and table is not None and len(table) > new.vocabulary:  # rows without a token
            fitting["embedding.weight"] = table[: new.vocabulary]
        self.taken |= {before + name for name in weights}
        self.notices += notices
        return {f"encoders.{ours}.{name}": value for name, value in fitting.items()}

    def _given(self, name: str) -> Tensor:
        if PREFIX + name not in self.donor.weights:
            raise ConfigError(
                f"init_from: {self.donor.where} has no weights '{PREFIX}{name}', which this trunk has; nothing was "
                "loaded"
            )
        self.taken.add(PREFIX + name)
        return self.donor.weights[PREFIX + name]


def read_any(settings: InitSettings) -> Donor:
    """A run, one of its checkpoints, or a model of another library."""
    path, weights = settings.path, settings.weights
    if is_foreign(path, weights):
        if settings.step is not None:
            raise ConfigError(f"init_from.step: {path} is no run of mmpt and has no steps; leave it out")
        return read_donor(path, weights)
    run, step = run_and_step(path, settings.step)
    recipe = load_recipe(run)
    folder = run / "checkpoints"
    steps = checkpoint.steps_in(folder)
    if step is not None and step not in steps:
        raise CheckpointError(f"{run}: no checkpoint of step {step}; there are {', '.join(map(str, steps)) or 'none'}")
    found = checkpoint.latest(folder) if step is None else folder / f"step-{step:09d}"
    if found is None:
        raise CheckpointError(f"{run}: holds no whole checkpoint to begin with")
    saved = checkpoint.load(found, moments=False)
    modalities = build_modalities(recipe.streams, load_facts(run))
    hashes = {"model.safetensors": sha256_of(found / "model.safetensors")}
    return Donor(run, RUN, recipe, modalities, saved.weights, (), (), hashes, int(saved.state["step"]))


def told(origin: Origin | None) -> list[str]:
    """For people: a line of what was loaded, one of what was not, and the notices."""
    if origin is None:
        return []
    step = "" if origin.step is None else f" at step {origin.step}"
    lines = [f"begins with {len(origin.loaded)} weights of {origin.source}, a {origin.kind}{step}"]
    if origin.fresh:
        parts = dict.fromkeys(_part(name) for name in origin.fresh)
        lines.append(f"begins anew: {', '.join(parts)}")
    return [*lines, *origin.notices]


def _part(name: str) -> str:
    words = name.split(".")
    return ".".join(words[:4] if words[0] == "objective" else words[1:3])


def _kinds(recipe: Recipe) -> dict[tuple[str, str], type]:
    """Classes of corruption and predictor, by stream, of masked prediction."""
    streams = recipe.objective.settings.get("streams", {}) if recipe.objective.name == "masked_prediction" else {}
    parts = ("corruption", "predictor")
    return {(name, part): getattr(own, part).target for name, own in streams.items() for part in parts}
