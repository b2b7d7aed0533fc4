"""The verbs that measure a run: probe, diagnose."""

import argparse
from pathlib import Path

from mmpt.cli_training import add_verb, console_for_tables
from mmpt.errors import DataError

SHARES = """With --shares 0.01,0.1,1 the score is told for so much of the training labels, too: several stratified
draws of each share, their mean, deviation and interval, beside the untrained encoder and the baselines.
"""


def add_evaluation_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Both."""
    _add_probe(verbs)
    _add_diagnose(verbs)


def _add_probe(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    probe = add_verb(
        verbs,
        "probe",
        "linear, kNN or attentive probe of a run's frozen features, beside the untrained encoder and baselines",
        "mmpt probe runs/five shards/images --label label\n"
        "  mmpt probe runs/five shards/ecg --label label --streams ecg --kind attentive --shares 0.01,0.05,0.1,1",
        SHARES,
    )
    probe.add_argument("run_folder", metavar="RUN", help="run folder, or a folder of transformers or timm weights")
    probe.add_argument("data", metavar="DATA", help="data set with labels")
    probe.add_argument("--label", required=True, metavar="FIELD", help="key of the labels that is predicted")
    probe.add_argument("--streams", metavar="A,B", help="the fields that are encoded (default: all that the run knows)")
    probe.add_argument(
        "--score",
        choices=("accuracy", "balanced", "macro_f1"),
        default="accuracy",
        help="what settings are chosen by; macro_f1 for classes of very different sizes (default: accuracy)",
    )
    probe.add_argument(
        "--kind",
        choices=("linear", "knn", "attentive"),
        default="linear",
        help="what gain and curves are told of; attentive trains a query over all tokens, too (default: linear)",
    )
    add_shares(probe, "labels")
    probe.add_argument("--max-samples", type=int, metavar="N", help="of every split, drawn at random (default: all)")
    probe.add_argument("--skip-unlabelled", action="store_true", help="leave samples without the label out")
    probe.set_defaults(run=run_probe)


def _add_diagnose(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    diagnose = add_verb(
        verbs,
        "diagnose",
        "effective rank, over-smoothing, anisotropy, outliers, codes and experts of a run's latents, block by block",
        "mmpt diagnose runs/five\n  mmpt diagnose runs/five shards/ecg --split test --untrained",
        "Samples of a masked prediction run are hidden as in training; of all else (other objectives, fitted tasks,\n"
        "exports, other libraries' folders) complete rows are looked at. What every figure means stands below the\n"
        "tables, and in report.html.\n",
    )
    diagnose.add_argument(
        "run_folder", metavar="RUN", help="run folder, a fitted task, an export, or another library's folder"
    )
    diagnose.add_argument("data", metavar="DATA", nargs="?", help="data set (default: the run's own sources)")
    diagnose.add_argument("--streams", metavar="A,B", help="of DATA (default: all that the run knows)")
    diagnose.add_argument("--split", help="of the data (default: validation, test or train, the first that there is)")
    diagnose.add_argument("--samples", type=int, default=256, metavar="N", help="of each data set (default: 256)")
    diagnose.add_argument("--step", type=int, metavar="N", help="of the checkpoint (default: the newest)")
    diagnose.add_argument("--untrained", action="store_true", help="the weights that the run began with, instead")
    diagnose.set_defaults(run=run_diagnose)


def add_shares(verb: argparse.ArgumentParser, what: str) -> None:
    """Options of curves over shares of the training samples."""
    verb.add_argument("--shares", metavar="S,S", help=f"of the training {what} that are used, as 0.01,0.05,0.1,1")
    verb.add_argument("--draws", type=int, default=5, metavar="N", help="of each share (default: 5)")


def shares_of(arguments: argparse.Namespace) -> tuple[float, ...]:
    """As numbers; raises DataError for what is none."""
    if arguments.shares is None:
        return ()
    try:
        return tuple(float(share) for share in arguments.shares.split(","))
    except ValueError as error:
        raise DataError(f"--shares: expected numbers as 0.01,0.1,1, got '{arguments.shares}'") from error


def run_probe(arguments: argparse.Namespace) -> int:
    """`mmpt probe`."""
    from mmpt.downstream.probe import probe

    console = console_for_tables()
    streams = arguments.streams.split(",") if arguments.streams else None
    result = probe(
        Path(arguments.run_folder),
        Path(arguments.data),
        label=arguments.label,
        streams=streams,
        score=arguments.score,
        kind=arguments.kind,
        shares=shares_of(arguments),
        draws=arguments.draws,
        max_samples=arguments.max_samples,
        skip_unlabelled=arguments.skip_unlabelled,
        console=console,
    )
    console.print(result.table())
    if curves := result.curve_table():
        console.print(curves)
    return 0


def run_diagnose(arguments: argparse.Namespace) -> int:
    """`mmpt diagnose`."""
    from mmpt.evaluation.diagnose import diagnose

    if arguments.streams and not arguments.data:
        raise DataError("--streams: they are of DATA, and the run's own sources have theirs; name a data set")
    found = diagnose(
        arguments.run_folder,
        arguments.data,
        streams=arguments.streams.split(",") if arguments.streams else None,
        split=arguments.split,
        samples=arguments.samples,
        step=arguments.step,
        untrained=arguments.untrained,
    )
    console = console_for_tables()
    for table in found.tables():
        console.print(table)
    console.print(found.caption(), markup=False)
    return 0
