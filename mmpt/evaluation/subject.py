"""What a diagnosis looks at: a backbone, with the objective it was trained by where that hides tokens and is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmpt.build import build_model
from mmpt.downstream.encoder import load
from mmpt.downstream.pretrained import load_pretrained
from mmpt.encoders import Modality
from mmpt.model import Backbone
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.settings import Recipe
from mmpt.training.checkpoint import holds


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
    encoder = load(run, step=step, untrained=untrained, device="cpu")
    recipe, modalities = encoder.recipe, encoder.modalities
    own, step = encoder.run or run, encoder.step
    hides = issubclass(recipe.objective.target, MaskedPrediction) and encoder.origin is None
    if hides and untrained:
        fresh = build_model(recipe, modalities).requires_grad_(False).eval()
        return Subject(recipe, modalities, fresh.backbone, _masked(fresh.objective), None)
    if hides and holds(own, step, "objective.streams."):
        trained = load_pretrained(own, step=step).model
        return Subject(recipe, modalities, trained.backbone, _masked(trained.objective), step)
    return Subject(recipe, modalities, encoder.backbone, None, step)


def _masked(objective: object) -> MaskedPrediction:
    assert isinstance(objective, MaskedPrediction)
    return objective
