"""Finished runs whose models a recipe's objective looks at: found, checked and loaded before training begins."""

import json
from copy import copy
from pathlib import Path

from mmpt.build import build_modalities, build_model, load_facts, load_weights
from mmpt.data.batches import MicroBatches, Share
from mmpt.errors import ConfigError, MmptError
from mmpt.model import MaskedModel
from mmpt.objectives.frozen import FrozenRun, Measures
from mmpt.training import checkpoint
from mmpt.training.run import load_recipe

MEASURED = 64  # bins at most: every rank looks at them by itself, on the host


def load_frozen(model: MaskedModel) -> None:
    """All that the model asks for; raises ConfigError for a run that is not finished, or of no use here."""
    for part in [part for part in model.modules() if isinstance(part, FrozenRun)]:
        try:
            _load(part)
        except MmptError as error:
            raise ConfigError(f"objective: the run it looks at can't be used: {error}") from error


def _load(part: FrozenRun) -> None:
    recipe = load_recipe(part.run)
    last = part.run / "checkpoints" / f"step-{recipe.training.steps:09d}"
    if not last.exists():
        steps = checkpoint.steps_in(part.run / "checkpoints")
        reached = f"is at step {steps[-1]} of {recipe.training.steps}" if steps else "has no checkpoint yet"
        raise ConfigError(f"{part.run}: expected a finished run, and it {reached}; finish it first")
    modalities = build_modalities(recipe.streams, load_facts(part.run))
    saved = checkpoint.load(last, moments=False)
    other = build_model(recipe, modalities)
    load_weights(other, saved.weights)
    part.hold(modalities, other, _fingerprint(last))


def measure(model: MaskedModel, batches: MicroBatches) -> None:
    """What parts have to know of the data, from the first rows of the run, whichever rank gets them later."""
    parts = [part for part in model.modules() if isinstance(part, Measures)]
    if not parts:
        return
    share = batches.share
    whole = copy(batches)
    whole.share = Share(0, 1, 1, min(MEASURED, share.ranks * share.accumulation * share.bins))
    batch = whole[0].batch
    for part in parts:
        part.measure(batch)


def _fingerprint(folder: Path) -> str:
    return json.loads((folder / checkpoint.COMMIT).read_text(encoding="utf-8"))["sha256"]["model.safetensors"]


def fingerprints(model: MaskedModel) -> dict[str, str]:
    """Of the weights of every run that the model looks at, by folder."""
    return {str(part.run): part.fingerprint for part in model.modules() if isinstance(part, FrozenRun)}
