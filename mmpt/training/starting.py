"""Going on from a finished run with another objective: the one place that knows how its weights come over."""

from pathlib import Path
from typing import cast

from mmpt.build import load_facts, load_weights
from mmpt.encoders import Facts
from mmpt.errors import CheckpointError, ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.training import checkpoint


def start_from(run: Path, model: MaskedModel, facts: dict[str, Facts]) -> None:
    """Copy the backbone of a run's newest checkpoint, and its objective where the new one has an heir of it.

    Raises ConfigError for a run of other streams, sizes or fields; CheckpointError where none is whole.
    """
    theirs = load_facts(run)
    if list(theirs) != list(facts):
        raise ConfigError(
            f"objective.start: {run} has the streams {', '.join(theirs)} and the recipe {', '.join(facts)}; name the "
            "same ones in the same order, since weights are told apart by it"
        )
    for name, own in facts.items():
        known, given = _meaning(theirs[name]), _meaning(own)
        other = [fact for fact in known if given.get(fact) != known[fact]]
        if other:
            raise ConfigError(
                f"objective.start: stream '{name}' of {run} was built with other {' and '.join(other)} than the "
                "recipe's data; build the data again with the run's (mmpt build ... --tokenizer)"
            )
    newest = checkpoint.latest(run / "checkpoints")
    if newest is None:
        raise CheckpointError(f"{run}: has no whole checkpoint to start from; run 'mmpt pretrain' there first")
    try:
        weights = checkpoint.load(newest, moments=False).weights
        if model.objective.heir is None:
            load_weights(model.backbone, weights, prefix="backbone.")
        else:  # as one model, since predictors may share weights with encoders
            heir = cast("Objective", model.objective.get_submodule(model.objective.heir))
            load_weights(MaskedModel(model.backbone, heir), weights)
    except CheckpointError as error:
        raise ConfigError(f"objective.start: {run} is of another shape: {error}") from error


def _meaning(facts: Facts) -> dict[str, object]:
    """What tokens and values mean; where the tokenizer lies and what stands beside samples does not matter."""
    return {name: value for name, value in facts.values.items() if name not in ("tokenizer", "units", "scores")}
