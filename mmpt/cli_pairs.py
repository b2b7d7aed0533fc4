"""The verbs about what is alike: retrieve, zeroshot, mine."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import yaml

from mmpt.cli_evaluation import add_shares, shares_of
from mmpt.cli_training import add_verb, console_for_tables
from mmpt.errors import DataError

PROMPTS = """FILE names a text, or a list of texts, for every class:
  normal: Sinus rhythm, a normal beat.
  ventricular: [A ventricular beat., A broad beat that comes early.]
"""


def add_pair_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """All of them."""
    retrieve = add_verb(
        verbs,
        "retrieve",
        "find one half of each pair by the other: recall at 1, 5 and 10, both ways, beside chance",
        "mmpt retrieve runs/cmelt shards/ecg --streams ecg,text\n"
        "  mmpt retrieve runs/five shards/images --streams image,text --shares 0.01,0.1,1",
        "Halves are compared by the run's own pool, if it was trained with one (objective embedding), else by their "
        "mean latents;\nof a run with a sigmoid contrast by the contrast's features.\n"
        "With --shares a linear map between the two streams' frozen features is fitted to so much of the training "
        "pairs,\nand recall through it stands beside the untrained encoder, classical features and chance.\n",
    )
    _add_pair(retrieve)
    retrieve.add_argument("--split", default="test", help="where to look (default: test)")
    add_shares(retrieve, "pairs")
    retrieve.add_argument("--json", action="store_true", help="print JSON instead of a table")
    retrieve.set_defaults(run=run_retrieve)

    zeroshot = add_verb(
        verbs,
        "zeroshot",
        "classify by what the classes are called, without fitting anything",
        "mmpt zeroshot runs/cmelt shards/ecg --streams ecg,text --label label --prompts classes.yaml",
        PROMPTS,
    )
    _add_pair(zeroshot)
    zeroshot.add_argument("--label", required=True, metavar="FIELD", help="key of the labels")
    zeroshot.add_argument("--prompts", required=True, metavar="FILE", help="YAML: texts by class")
    zeroshot.set_defaults(run=run_zeroshot)
    _add_mine(verbs)


def _add_mine(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    mine = add_verb(
        verbs,
        "mine",
        "find samples that a run's features take for each other, as hard negatives of a source (objective embedding)",
        "mmpt mine runs/contrast shards/images --streams image,text --out hard/captions.safetensors",
        "Samples are compared as `mmpt retrieve` does, by the run's own pool where it has one.\n",
    )
    mine.add_argument("run_folder", metavar="RUN", help="run folder of 'mmpt pretrain'")
    mine.add_argument("data", metavar="DATA", help="data set")
    mine.add_argument("--streams", required=True, metavar="A[,B]", help="what asks, and what is found by it")
    mine.add_argument("--out", required=True, metavar="FILE", help="a .safetensors file")
    mine.add_argument("--split", default="train", help="where to look (default: train)")
    mine.add_argument("--ranks", default="10:50", metavar="A:B", help="that become negatives (default: 10:50)")
    mine.add_argument("--share", type=float, default=0.95, help="of the own half's similarity, at most (default: 0.95)")
    mine.add_argument("--top", type=int, default=50, help="ranks among which the own half has to be (default: 50)")
    mine.set_defaults(run=run_mine)


def _add_pair(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("run_folder", metavar="RUN", help="run folder of 'mmpt pretrain'")
    verb.add_argument("data", metavar="DATA", help="data set of pairs")
    verb.add_argument("--streams", required=True, metavar="A,B", help="the two streams; prompts are of the second")
    verb.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")


def run_retrieve(arguments: argparse.Namespace) -> int:
    """`mmpt retrieve`."""
    from mmpt.downstream.retrieval import retrieve

    found = retrieve(
        arguments.run_folder, arguments.data, _streams(arguments), split=arguments.split, step=arguments.step
    )
    console = console_for_tables()
    if arguments.json:
        ways = [
            way._asdict() | {"recall": {k: asdict(own) for k, own in way.recall.items()}} for way in found.directions
        ]
        console.print(json.dumps({"features": found.features, "directions": ways}), markup=False, soft_wrap=True)
    else:
        console.print(found.table())
    if shares := shares_of(arguments):
        _print_curves(arguments, shares)
    return 0


def _print_curves(arguments: argparse.Namespace, shares: tuple[float, ...]) -> None:
    from mmpt.downstream.few_pairs import few_pairs

    console = console_for_tables()
    curves = few_pairs(
        arguments.run_folder,
        arguments.data,
        _streams(arguments),
        shares=shares,
        draws=arguments.draws,
        splits=("train", arguments.split),
        step=arguments.step,
        console=console,
    )
    if arguments.json:
        console.print(json.dumps(asdict(curves)), markup=False, soft_wrap=True)
        return
    for table in curves.tables():
        console.print(table)


def run_zeroshot(arguments: argparse.Namespace) -> int:
    """`mmpt zeroshot`."""
    from mmpt.downstream.retrieval import zero_shot

    streams, label = _streams(arguments), arguments.label
    prompts = _prompts(Path(arguments.prompts))
    found = zero_shot(arguments.run_folder, arguments.data, streams, label=label, prompts=prompts, step=arguments.step)
    console_for_tables().print(found.table())
    return 0


def run_mine(arguments: argparse.Namespace) -> int:
    """`mmpt mine`."""
    from mmpt.downstream.mine import mine

    first, _, last = arguments.ranks.partition(":")
    if not (first.isdigit() and last.isdigit()):
        raise DataError(f"--ranks: expected the first and the last one, as 10:50, got '{arguments.ranks}'")
    found = mine(
        arguments.run_folder,
        arguments.data,
        arguments.out,
        streams=arguments.streams.split(","),
        split=arguments.split,
        ranks=(int(first), int(last)),
        share=arguments.share,
        top=arguments.top,
    )
    console_for_tables().print(str(found), markup=False)
    return 0


def _streams(arguments: argparse.Namespace) -> tuple[str, str]:
    names = arguments.streams.split(",")
    if len(names) != 2 or names[0] == names[1]:
        raise DataError(f"--streams: expected two different streams, as ecg,text, got '{arguments.streams}'")
    return names[0], names[1]


def _prompts(file: Path) -> dict[str, str | list[str]]:
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{file}: can't be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(given, dict) or not given:
        raise DataError(f"{file}: expected texts by class, as 'normal: A normal beat.'")
    return {str(name): texts for name, texts in given.items()}
