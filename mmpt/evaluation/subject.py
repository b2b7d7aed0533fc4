"""What a diagnosis looks at: a backbone, with the objective it was trained by where that hides tokens and is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmpt.build import build_backbone, build_modalities, build_model, load_facts, load_weights
from mmpt.downstream.encoder import find_checkpoint, load
from mmpt.encoders import Modality
from mmpt.foreign.donor import is_foreign
from mmpt.model import Backbone
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.run import load_recipe, run_and_step


class Subject(NamedTuple):
    """Loaded, in eval mode."""

    recipe: Recipe
    modalities: Mapping[str, Modality]
    backbone: Backbone
    objective: MaskedPrediction | None  # None: nothing is hidden, and complete rows alone are looked at
    step: int | None  # of the checkpoint; None: of none


def subject_of(run: Path, step: int | None, *, untrained: bool) -> Subject:
    """A run, a fitted task, an export or another library's folder: whatever `mmpt.load` reads.

    Raises CheckpointError where there is nothing of the kind.
    """
    if is_foreign(run, None):
        encoder = load(run, step=step, untrained=untrained, device="cpu")
        return Subject(encoder.recipe, encoder.modalities, encoder.backbone, None, encoder.step)
    own, step = run_and_step(run, step)
    recipe = load_recipe(own)
    modalities = build_modalities(recipe.streams, load_facts(own))
    saved = None if untrained else checkpoint.load(find_checkpoint(own, step), moments=False)
    step = None if saved is None else int(saved.state["step"])
    hides = issubclass(recipe.objective.target, MaskedPrediction)
    if hides and (saved is None or any(name.startswith("objective.streams.") for name in saved.weights)):
        model = build_model(recipe, modalities).requires_grad_(False).eval()
        if saved is not None:
            load_weights(model, saved.weights)
        return Subject(recipe, modalities, model.backbone, _masked(model.objective), step)
    backbone = build_backbone(recipe, modalities).requires_grad_(False).eval()
    if saved is not None:
        load_weights(backbone, saved.weights, prefix="backbone.")
    return Subject(recipe, modalities, backbone, None, step)


def _masked(objective: object) -> MaskedPrediction:
    assert isinstance(objective, MaskedPrediction)
    return objective
