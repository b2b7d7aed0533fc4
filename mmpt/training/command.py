"""`mmpt pretrain`: everything that can be checked is checked before a process group or a GPU is touched."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from mmpt.build import build_modalities, build_model, build_sources, check_rows, facts_of, source_weights
from mmpt.config import load_settings
from mmpt.data.batches import MicroBatches, share_of
from mmpt.data.source import Source
from mmpt.encoders import Facts, Modality
from mmpt.foreign.origin import Origin
from mmpt.model import MaskedModel
from mmpt.recipes import find_recipe
from mmpt.settings import Recipe
from mmpt.training import checkpoint, engine
from mmpt.training.beginning import Beginning, told
from mmpt.training.divided_experts import check_experts
from mmpt.training.frozen_runs import fingerprints, load_frozen
from mmpt.training.optimizer import check_rule, optimizer_for
from mmpt.training.progress import quiet
from mmpt.training.run import is_complete, prepare
from mmpt.training.section import check_model, check_settings
from mmpt.training.world import place

if TYPE_CHECKING:
    from mmpt.evaluation.online_probe import OnlineProbes


class Built(NamedTuple):
    """What a recipe comes to for one rank."""

    recipe: Recipe
    facts: dict[str, Facts]
    sources: list[Source]
    model: MaskedModel
    batches: MicroBatches
    probes: "OnlineProbes | None" = None  # while the run goes
    origin: Origin | None = None  # of weights that it begins with


def build(recipe: Recipe, rank: int, ranks: int, *, going_on: bool = False) -> Built:
    """Wire all parts; raises ConfigError or DataError for whatever can't be.

    Where a run is `going_on`, what it once began with is not read again.
    """
    check_settings(recipe.deepspeed)
    check_rule(recipe.training.optimizer.rule, recipe.deepspeed)
    facts = facts_of(recipe)
    modalities = build_modalities(recipe.streams, facts)
    sources = build_sources(recipe, modalities)
    share = share_of(recipe.data.batch_size, recipe.data.micro_batch_size, rank, ranks)
    batches = MicroBatches(sources, source_weights(recipe, sources), recipe.training.steps, recipe.training.seed, share)
    beginning = None if recipe.beginning is None or going_on else Beginning(recipe, recipe.beginning, modalities)
    model = build_model(recipe, modalities, beginning and beginning.fill)
    load_frozen(model)
    check_rows(model, sources)
    origin = beginning and beginning.finish(model)
    check_model(recipe.deepspeed, model)
    check_experts(recipe.training.ep_size, recipe.deepspeed, model, ranks)
    optimizer_for(model, recipe.training.optimizer)  # for what it refuses
    return Built(recipe, facts, sources, model, batches, _probes(recipe, modalities), origin)


def _probes(recipe: Recipe, modalities: Mapping[str, Modality]) -> "OnlineProbes | None":
    if not recipe.training.probes:
        return None
    from mmpt.evaluation.online_probe import OnlineProbes  # scikit-learn, which other runs don't wait for

    return OnlineProbes(recipe, modalities)


def pretrain(recipe: str | Path, *overrides: str, out: str | Path | None = None) -> Path:
    """Pretrain, or go on with what the run folder holds; returns the run folder.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with mmpt.
        overrides: `a.b.c=value`.
        out: the run folder; `runs/NAME` by default.

    Raises:
        ConfigError: for a recipe that can't be used, or a folder that holds another recipe's run.
        DataError: for shards that can't be used, or too many unreadable samples.
        CheckpointError: when a save fails; the last checkpoint is untouched.
        NonFiniteError (of `mmpt.training.guards`): after too many updates in a row that were not finite.
        Interrupted: after SIGTERM or SIGINT; everything is saved.
    """
    file = find_recipe(recipe)
    settings = load_settings(file, list(overrides), Recipe)
    run = Path(out) if out else Path("runs") / file.stem
    rank, ranks = place()
    built = build(settings, rank, ranks, going_on=bool(checkpoint.steps_in(run / "checkpoints")))
    if rank == 0:
        prepare(run, settings, built.facts, built.sources, fingerprints(built.model), built.origin)
        if is_complete(run, settings):
            Console(highlight=False, soft_wrap=True).print(
                f"{run}: complete, all {settings.training.steps} steps are done; nothing was changed", markup=False
            )
            return run
    elif is_complete(run, settings):
        return run
    log = "log.txt" if rank == 0 else f"log-rank{rank:05d}.txt"
    with quiet(run / log, speaks=rank == 0) as console:
        for line in told(built.origin):
            console.print(line, markup=False)
        _train(built, run, console)
    if rank == 0:
        finish(run)
    return run


def _train(built: Built, run: Path, console: Console) -> None:
    from mmpt.training.pretrain import train

    world = engine.start(built.recipe.data.workers)
    train(built.recipe, run, world, console, built.sources, built.model, built.batches, built.probes)


def finish(run: Path) -> None:
    """The report, once the last step is saved."""
    from mmpt.report import write_report

    report = write_report(run)
    Console(highlight=False, soft_wrap=True).print(f"{run}: complete; the report is {report}", markup=False)
