"""The verbs around training: samples, recipes, describe, pretrain, show, report."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

EXITS = """exit codes:
  0  complete    2  a mistake in the recipe, the data or the call    3  interrupted; saved, the same command goes on
"""


def add_training_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """All of them."""
    samples = add_verb(
        verbs, "samples", "make shards of the small real data that comes with mmpt", "mmpt samples shards"
    )
    samples.add_argument("out", metavar="DIR", help="gets a folder for each: text, images, speech, ecg, labs, video")
    samples.set_defaults(run=run_samples)

    recipes = add_verb(verbs, "recipes", "list the recipes that come with mmpt", "mmpt recipes")
    recipes.set_defaults(run=run_recipes)

    describe = add_verb(
        verbs, "describe", "print what a recipe comes to, without training", "mmpt describe five trunk.depth=6"
    )
    _add_recipe(describe)
    describe.add_argument("--ranks", type=int, default=1, help="processes to plan for (default: 1)")
    describe.set_defaults(run=run_describe)

    _add_pretrain(verbs)
    _add_show(verbs)

    report = add_verb(
        verbs, "report", "write report.html of a run, at any time, and print its probes", "mmpt report runs/five"
    )
    report.add_argument("run_folder", metavar="RUN", help="run folder of 'mmpt pretrain' or 'mmpt finetune'")
    report.set_defaults(run=run_report)


def _add_pretrain(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    pretrain = add_verb(
        verbs,
        "pretrain",
        "pretrain a recipe, or go on with what the run folder holds",
        "mmpt pretrain five --out runs/first training.steps=1000\n"
        "  deepspeed --num_accelerators 2 --module mmpt pretrain five --out runs/first",
        EXITS,
    )
    _add_recipe(pretrain)
    pretrain.add_argument("--out", metavar="RUN", help="run folder (default: runs/NAME of the recipe)")
    pretrain.set_defaults(run=run_pretrain)


def _add_show(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    show = add_verb(
        verbs,
        "show",
        "draw one sample: as it is, hidden as in training, and what is predicted",
        "mmpt show runs/five shards/ecg --sample 000000012 --out beat.png",
    )
    show.add_argument("run_folder", metavar="RUN", help="run folder of 'mmpt pretrain'")
    show.add_argument("data", metavar="DATA", help="data set, of the run or any other with its fields")
    show.add_argument("--sample", required=True, metavar="KEY", help="the sample's key")
    show.add_argument("--step", type=int, metavar="N", help="of training, whose mask is shown (default: the last)")
    show.add_argument("--streams", metavar="A,B", help="the fields that are shown (default: all that the run knows)")
    show.add_argument("--out", required=True, metavar="FILE", help="a .png file")
    show.set_defaults(run=run_show)


def add_verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, what: str, example: str, more: str = ""
) -> argparse.ArgumentParser:
    """A command with its help: what it does, an example, and what more there is to say."""
    return verbs.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"example:\n  {example}\n{more and f'{chr(10)}{more}'}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_recipe(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("recipe", metavar="RECIPE", help="YAML file, or a name that 'mmpt recipes' lists")
    verb.add_argument("settings", nargs="*", metavar="key=value", help="replaces the recipe's, as trunk.depth=6")


def console_for_tables() -> Console:
    """Standard output."""
    width = None if sys.stdout.isatty() else 120  # a file or a pipe: rich would take 80 and break tables
    return Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)


def run_samples(arguments: argparse.Namespace) -> int:
    """`mmpt samples`."""
    from mmpt.samples import build_samples

    build_samples(Path(arguments.out), console_for_tables())
    return 0


def run_recipes(arguments: argparse.Namespace) -> int:
    """`mmpt recipes`."""
    from mmpt.recipes import POSTTRAIN, recipes

    pretrain = [(own.name, own.line) for own in recipes()]
    pretrain += [(f"{POSTTRAIN}/{own.name}", own.line) for own in recipes(POSTTRAIN)]
    others = {verb: [(own.name, own.line) for own in recipes(verb)] for verb in ("finetune", "compress")}
    every = {"pretrain": pretrain, **others}
    width = max(len(name) for own in every.values() for name, _ in own)
    for verb, own in every.items():
        sys.stdout.write(f"mmpt {verb} RECIPE\n" + "".join(f"  {name:<{width}}  {line}\n" for name, line in own))
    return 0


def run_describe(arguments: argparse.Namespace) -> int:
    """`mmpt describe`."""
    from mmpt.describe import describe

    describe(arguments.recipe, arguments.settings, ranks=arguments.ranks, console=console_for_tables())
    return 0


def run_pretrain(arguments: argparse.Namespace) -> int:
    """`mmpt pretrain`."""
    sys.path.insert(0, "")  # parts of the user's own, named as my_package.my_part
    from mmpt.training.command import pretrain

    pretrain(arguments.recipe, *arguments.settings, out=arguments.out)
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """`mmpt show`."""
    from mmpt.report.show import show

    streams = arguments.streams.split(",") if arguments.streams else None
    run, data, out = (Path(name) for name in (arguments.run_folder, arguments.data, arguments.out))
    shown = show(run, data, arguments.sample, out=out, step=arguments.step, streams=streams)
    console_for_tables().print(f"picture: {shown}", markup=False)
    return 0


def run_report(arguments: argparse.Namespace) -> int:
    """`mmpt report`."""
    from mmpt.downstream.summary import summary
    from mmpt.finetune.saved import RESULT, load_result
    from mmpt.report import write_report
    from mmpt.report.fit import write_fit_report

    run, console = Path(arguments.run_folder), console_for_tables()
    report = write_fit_report(load_result(run), run) if (run / RESULT).exists() else write_report(run)
    if table := summary(run):
        console.print(table)
    console.print(f"report: {report}", markup=False)
    return 0
