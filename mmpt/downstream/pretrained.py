"""A finished or unfinished run, loaded from its folder alone: neither shards nor DeepSpeed are needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmpt.build import build_modalities, build_model, load_facts, load_weights
from mmpt.encoders import Modality
from mmpt.errors import CheckpointError
from mmpt.model import MaskedModel
from mmpt.settings import Recipe
from mmpt.training import checkpoint
from mmpt.training.run import load_recipe


class Pretrained(NamedTuple):
    """What a run folder holds of the model."""

    run: Path
    recipe: Recipe
    modalities: Mapping[str, Modality]
    model: MaskedModel  # in eval mode
    step: int | None  # of the checkpoint; None: there is none, and the weights are fresh


def load_pretrained(run: Path, *, step: int | None = None) -> Pretrained:
    """On the host: the checkpoint of `step` where there is a whole one, else the newest.

    Raises CheckpointError or ConfigError for a folder that can't be used, or that has an encoder alone.
    """
    recipe = load_recipe(run)
    modalities = build_modalities(recipe.streams, load_facts(run))
    model = build_model(recipe, modalities).requires_grad_(False).eval()
    found = _checkpoint(run / "checkpoints", step)
    if found is None:
        return Pretrained(run, recipe, modalities, model, None)
    saved = checkpoint.load(found, moments=False)
    own = [name for name, _ in model.objective.named_parameters(prefix="objective")]
    if own and not any(name in saved.weights for name in own):
        raise CheckpointError(
            f"{run}: is an encoder without what it was pretrained with, as tasks, exports and smaller models are; name "
            "the run of 'mmpt pretrain' that it came from"
        )
    load_weights(model, saved.weights)
    return Pretrained(run, recipe, modalities, model, int(saved.state["step"]))


def _checkpoint(folder: Path, step: int | None) -> Path | None:
    if step in checkpoint.steps_in(folder):
        wanted = folder / f"step-{step:09d}"
        if not checkpoint.problems(wanted):
            return wanted
    return checkpoint.latest(folder)
