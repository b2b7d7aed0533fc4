"""`mmpt hubert`: features -> units -> pretraining -> better features -> ..., each stage done once."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from mmpt.config import load_settings
from mmpt.data.codebook import Codebook, load_codebook, save_codebook
from mmpt.data.manifest import load_manifest
from mmpt.downstream.units.features import FrameFeatures, LayerFeatures, MfccFeatures
from mmpt.downstream.units.fit import fit_codebook
from mmpt.downstream.units.label import is_labelled, label_data
from mmpt.downstream.units.layers import choose_layer
from mmpt.downstream.units.ranks import refuse_ranks
from mmpt.errors import ConfigError, DataError, Interrupted, MmptError
from mmpt.recipes import find_recipe
from mmpt.settings import HubertSettings, IterationSettings, Recipe

SAVED, INTERRUPTED = 3, 130  # exit codes of `mmpt pretrain` that mean: stopped, go on with the same command


def run_rounds(
    recipe: str | Path, *overrides: str, out: str | Path, launcher: str | None = "", console: Console | None = None
) -> Path:
    """All rounds of the recipe's `hubert` section; killed, the same call goes on at the stage that was not finished.

    Round n leaves `out/round-n/` with `units.safetensors`, `labels/SOURCE/` and `run/`.

    Args:
        recipe: a YAML file or the name of a recipe that comes with mmpt.
        overrides: `a.b.c=value`, for all rounds.
        out: the folder.
        launcher: what stands before `mmpt pretrain`, for example `deepspeed --num_accelerators 8 --module`; it
            gets a process of its own in any case. None: pretrain in this process, as a notebook may want it.
        console: shows progress; None is quiet.

    Returns:
        The run of the last round.

    Raises:
        ConfigError: no `hubert` section, or one that does not fit the recipe.
        DataError: what is there already was made with other settings.
        Interrupted: pretraining was stopped and saved.
        MmptError: started by a launcher itself.
    """
    refuse_ranks("mmpt hubert", "it starts the launcher itself, see --launcher, and hubert.workers compute features")
    file = find_recipe(recipe)
    settings = load_settings(file, list(overrides), Recipe)
    plan = _plan(file, settings)
    run: Path | None = None
    for number, iteration in enumerate(plan.iterations, start=1):
        folder = Path(out) / f"round-{number}"
        labels = _units(settings, plan, iteration, run, folder, console)
        units = [f"data.sources.{name}.units={json.dumps({plan.stream: str(own)})}" for name, own in labels.items()]
        run = folder / "run"
        _pretrain(file, [*overrides, *iteration.settings, *units], run, launcher)
    assert run is not None
    return run


def _plan(file: Path, settings: Recipe) -> HubertSettings:
    plan = settings.hubert
    if plan is None:
        raise ConfigError(f"{file}: has no section `hubert` with the rounds; see the recipe hubert_speech")
    named = [name for name, source in settings.data.sources.items() if plan.stream in source.streams]
    if not named:
        raise ConfigError(f"hubert.stream: no source feeds '{plan.stream}'; streams are {', '.join(settings.streams)}")
    if plan.fit_on is not None and plan.fit_on not in named:
        raise ConfigError(f"hubert.fit_on: expected one of {', '.join(named)}, got {plan.fit_on}")
    return plan


def _units(
    settings: Recipe,
    plan: HubertSettings,
    iteration: IterationSettings,
    before: Path | None,
    folder: Path,
    console: Console | None,
) -> dict[str, Path]:
    """Codebook and labels of a round, made where they are not there yet; labels by source."""
    sources = {name: own for name, own in settings.data.sources.items() if plan.stream in own.streams}
    fitted = sources[plan.fit_on or next(iter(sources))]
    features = _features(iteration, plan.stream, iteration.run or before, fitted.shards)
    file = folder / "units.safetensors"
    if file.exists():
        codebook, features = _made_before(file, features, iteration)
        _say(console, f"{file}: is there already")
    else:
        codebook, features = _fitted(features, iteration, plan, fitted.shards, settings.training.seed, console)
        save_codebook(codebook, file)
        _say(console, f"{file}: {codebook.clusters} units")
    labels = {}
    for name, source in sources.items():
        labels[name] = folder / "labels" / name
        if is_labelled(labels[name], codebook):
            _say(console, f"{labels[name]}: is there already")
            continue
        _, quality = label_data(codebook, features, source.shards, labels[name], workers=plan.workers, console=console)
        _say(console, f"{labels[name]}: {quality.used} of {quality.clusters} units in use")
    return labels


def _features(iteration: IterationSettings, stream: str, run: Path | None, shards: Path) -> FrameFeatures:
    if iteration.layer is None:
        return MfccFeatures(load_manifest(shards), stream)
    if run is None:
        raise ConfigError("hubert.iterations: a layer of which run?")
    return LayerFeatures(run, stream, layer=1 if iteration.layer == "auto" else iteration.layer)


def _made_before(file: Path, features: FrameFeatures, iteration: IterationSettings) -> tuple[Codebook, FrameFeatures]:
    """The codebook in a file and its features; raises DataError where the recipe now asks for another."""
    codebook = load_codebook(file)
    against = codebook.chosen.get("against")
    if against is not None and against == iteration.against and isinstance(features, LayerFeatures):
        features = features.of_layer(int(codebook.features["layer"]))
    same = codebook.clusters == iteration.clusters and dict(codebook.features) == dict(features.settings)
    if not same or against != iteration.against:
        chosen = f", chosen against {against}" if against else ""
        asked = f", chosen against {iteration.against}" if iteration.against else ""
        raise DataError(
            f"{file}: holds {codebook.clusters} units of {dict(codebook.features)}{chosen}, and the recipe asks for "
            f"{iteration.clusters} of {dict(features.settings)}{asked}; choose another --out, or remove {file.parent}"
        )
    return codebook, features


def _fitted(
    features: FrameFeatures,
    iteration: IterationSettings,
    plan: HubertSettings,
    shards: Path,
    seed: int,
    console: Console | None,
) -> tuple[Codebook, FrameFeatures]:
    """With the layer chosen first, where that was asked for."""
    choice, clusters, workers = None, iteration.clusters, plan.workers
    if iteration.against is not None and isinstance(features, LayerFeatures):
        choice = choose_layer(
            features, shards, against=iteration.against, clusters=clusters, seed=seed, workers=workers, console=console
        )
        features = features.of_layer(choice.best)
    share, passes = iteration.share, iteration.passes
    codebook = fit_codebook(
        features,
        shards,
        clusters=clusters,
        share=share,
        passes=passes,
        seed=seed,
        workers=workers,
        console=console,
    )
    return (replace(codebook, chosen=choice.facts) if choice else codebook), features


def _pretrain(recipe: Path, overrides: Sequence[str], run: Path, launcher: str | None) -> None:
    """In a process of its own, as the launcher wants it; a run that is complete says so and ends."""
    if launcher is None:
        from mmpt.training.command import pretrain

        pretrain(recipe, *overrides, out=run)
        return
    start = [*shlex.split(launcher), "mmpt"] if launcher else [sys.executable, "-m", "mmpt"]
    done = subprocess.run([*start, "pretrain", str(recipe), "--out", str(run), *overrides], check=False)
    if done.returncode in (SAVED, INTERRUPTED) or done.returncode < 0:
        raise Interrupted(f"stopped while {run} was pretrained; the same command goes on")
    if done.returncode:
        raise MmptError(f"{run}: pretraining failed with exit code {done.returncode}; what it said stands above")


def _say(console: Console | None, text: str) -> None:
    if console is not None:
        console.print(text, markup=False, soft_wrap=True)
