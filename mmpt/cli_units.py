"""The verbs `units fit`, `units label`, `units score` and `hubert`."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from mmpt.cli_training import add_verb
from mmpt.errors import DataError

if TYPE_CHECKING:
    from mmpt.data.codebook import Codebook
    from mmpt.downstream.units.features import FrameFeatures
    from mmpt.downstream.units.ranks import Ranks


def add_units(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`mmpt units fit|label|score`."""
    units = verbs.add_parser(
        "units", help="k-means units: fit a codebook, label a data set with it, score how sure a run is"
    )
    kinds = units.add_subparsers(title="steps", metavar="STEP", required=True)
    _add_fit(kinds)
    _add_label(kinds)
    _add_score(kinds)


def _add_fit(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    fit = add_verb(
        kinds,
        "fit",
        "k-means over frame features of a data set; memory does not grow with it; ranks of a launcher share the work",
        "mmpt units fit shards/speech --clusters 100 --out units/mfcc.safetensors\n"
        "  mmpt units fit shards/speech --run runs/first --layer 2 --clusters 100 --out units/second.safetensors\n"
        "  mmpt units fit shards/speech --run runs/first --layer auto --against label --out units/second.safetensors",
    )
    fit.add_argument("data", metavar="DATA", help="a data set")
    fit.add_argument("--out", required=True, metavar="FILE", help="the codebook, a .safetensors file")
    fit.add_argument("--clusters", type=int, default=100, metavar="V", help="how many (default: 100)")
    fit.add_argument("--stream", default="speech", metavar="FIELD", help="what is clustered (default: speech)")
    fit.add_argument(
        "--layer",
        type=_layer,
        metavar="N",
        help="features of this block of the run's trunk, from 1; auto: the best one",
    )
    fit.add_argument("--against", metavar="FIELD", help="labels that say which layer is best: of samples or of frames")
    fit.add_argument("--split", default="train", help="of the data set (default: train)")
    fit.add_argument("--share", type=float, default=1.0, help="of its samples, drawn by the seed (default: 1.0)")
    fit.add_argument("--passes", type=int, default=5, help="over the samples (default: 5)")
    fit.add_argument("--seed", type=int, default=0, help="of order, share and starts (default: 0)")
    _add_workers(fit)
    _add_run(fit)
    fit.set_defaults(run=run_fit)


def _add_label(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    label = add_verb(
        kinds,
        "label",
        "the unit of every frame of a data set, as a data set of its own, joined by key",
        "mmpt units label units/mfcc.safetensors shards/speech --out shards/speech-units --against label",
    )
    label.add_argument("codebook", metavar="CODEBOOK", help="file of 'mmpt units fit'")
    label.add_argument("data", metavar="DATA", help="a data set")
    label.add_argument("--out", required=True, metavar="DIR", help="new folder; a source's `units` names it")
    label.add_argument(
        "--against", metavar="FIELD", help="for purity and PNMI: a label of the samples, or a field of labels of frames"
    )
    _add_workers(label)
    _add_run(label)
    label.set_defaults(run=run_label)


def _add_score(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    score = add_verb(
        kinds,
        "score",
        "how sure a run is of every token's class, as a data set of its own, joined by key",
        "mmpt units score runs/hubert shards/speech --out shards/speech-scores",
    )
    score.add_argument("run_folder", metavar="RUN", help="a run whose stream predicts units or token ids")
    score.add_argument("data", metavar="DATA", help="a data set")
    score.add_argument("--out", required=True, metavar="DIR", help="new folder; a source's `scores` names it")
    score.add_argument("--stream", default="speech", metavar="FIELD", help="what is scored (default: speech)")
    score.add_argument("--step", type=int, metavar="N", help="of the run's checkpoint (default: the newest)")
    score.set_defaults(run=run_score)


def add_hubert(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`mmpt hubert`."""
    hubert = add_verb(
        verbs,
        "hubert",
        "HuBERT's rounds: units, pretraining, units of what was learned, ...; goes on where it was stopped",
        "mmpt hubert hubert_speech --out runs/hubert\n"
        '  mmpt hubert recipe.yaml --out runs/big --launcher "deepspeed --num_accelerators 8 --module"',
    )
    hubert.add_argument("recipe", metavar="RECIPE", help="a recipe with a section `hubert`")
    hubert.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that replace the recipe's")
    hubert.add_argument("--out", required=True, metavar="DIR", help="gets a folder for every round")
    hubert.add_argument("--launcher", default="", metavar="COMMAND", help="what stands before 'mmpt pretrain'")
    hubert.set_defaults(run=run_hubert)


def run_hubert(arguments: argparse.Namespace) -> int:
    """`mmpt hubert`."""
    from mmpt.downstream.units.rounds import run_rounds

    console = Console(highlight=False)
    run = run_rounds(
        arguments.recipe, *arguments.settings, out=arguments.out, launcher=arguments.launcher, console=console
    )
    console.print(f"{run}: the last round's run", markup=False, soft_wrap=True)
    return 0


def _add_run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--run", dest="run_folder", metavar="RUN", help="take features of this run (default: MFCCs)")
    verb.add_argument("--step", type=int, metavar="N", help="of the run's checkpoint (default: the newest)")
    verb.add_argument("--untrained", action="store_true", help="the weights that the run began with, as a control")


def _add_workers(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that compute features, with the same result; they take turns on the accelerators (default: 0)",
    )


def _layer(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else int(text)


def run_fit(arguments: argparse.Namespace) -> int:
    """`mmpt units fit`."""
    from mmpt.data.codebook import save_codebook
    from mmpt.downstream.units.fit import fit_codebook

    out, console, ranks = Path(arguments.out), *_console_and_ranks()
    if out.suffix != ".safetensors":
        raise DataError(f"--out {out}: expected a .safetensors file")
    features, chosen = _features_to_fit(arguments, console)
    codebook = fit_codebook(
        features,
        arguments.data,
        clusters=arguments.clusters,
        split=arguments.split,
        share=arguments.share,
        passes=arguments.passes,
        seed=arguments.seed,
        workers=arguments.workers,
        console=console,
    )
    if ranks.rank == 0:
        save_codebook(replace(codebook, chosen=chosen), out)
    console.print(f"{out}: {_told(codebook)}", markup=False, soft_wrap=True)
    return 0


def _features_to_fit(arguments: argparse.Namespace, console: Console) -> "tuple[FrameFeatures, Mapping[str, Any]]":
    """Features, and how their layer was chosen, where it was."""
    from mmpt.downstream.units.features import LayerFeatures
    from mmpt.downstream.units.layers import choose_layer

    auto = arguments.layer == "auto"
    if auto != (arguments.against is not None):
        raise DataError(
            "--layer auto compares layers by what their units tell of labels that --against names: give both or neither"
        )
    features = _features(arguments, arguments.stream, 1 if auto else arguments.layer)
    if not auto or not isinstance(features, LayerFeatures):
        return features, {}
    choice = choose_layer(
        features,
        arguments.data,
        against=arguments.against,
        clusters=arguments.clusters,
        split=arguments.split,
        seed=arguments.seed,
        workers=arguments.workers,
        console=console,
    )
    return features.of_layer(choice.best), choice.facts


def run_label(arguments: argparse.Namespace) -> int:
    """`mmpt units label`."""
    from mmpt.data.codebook import load_codebook
    from mmpt.downstream.units.label import label_data

    (console, _), codebook = _console_and_ranks(), load_codebook(Path(arguments.codebook))
    features = _features(arguments, codebook.stream, codebook.features.get("layer"))
    manifest, quality = label_data(
        codebook,
        features,
        arguments.data,
        arguments.out,
        against=arguments.against,
        workers=arguments.workers,
        console=console,
    )
    console.print(quality.table())
    console.print(f"{arguments.out}: {len(manifest)} samples, {_told(codebook)}", markup=False, soft_wrap=True)
    return 0


def run_score(arguments: argparse.Namespace) -> int:
    """`mmpt units score`."""
    from mmpt.downstream.units.score import Confidence, score_data

    console, _ = _console_and_ranks()
    confidence = Confidence(Path(arguments.run_folder), arguments.stream, step=arguments.step)
    manifest = score_data(confidence, arguments.data, arguments.out, console=console)
    console.print(f"{arguments.out}: scores of {len(manifest)} samples", markup=False, soft_wrap=True)
    return 0


def _console_and_ranks() -> "tuple[Console, Ranks]":
    """Under a launcher rank 0 alone speaks, and writes."""
    from mmpt.downstream.units.ranks import join

    ranks = join()
    return Console(highlight=False, quiet=ranks.rank > 0), ranks


def _told(codebook: "Codebook") -> str:
    rate = "one a token" if codebook.rate is None else f"{float(codebook.rate):g} a second"
    return f"{codebook.clusters} units of {codebook.stream}, {rate}, codebook {codebook.hash}"


def _features(arguments: argparse.Namespace, stream: str, layer: int | None) -> "FrameFeatures":
    from mmpt.data.manifest import load_manifest
    from mmpt.downstream.units.corpus import rows_with
    from mmpt.downstream.units.features import LayerFeatures, MfccFeatures

    if (arguments.run_folder is None) != (layer is None):
        raise DataError("features of a layer need both --run and the layer; without them they are MFCCs")
    if layer is not None:
        run = Path(arguments.run_folder)
        return LayerFeatures(run, stream, layer=layer, step=arguments.step, untrained=arguments.untrained)
    manifest = load_manifest(arguments.data)
    rows_with(manifest, stream, None)
    return MfccFeatures(manifest, stream)
