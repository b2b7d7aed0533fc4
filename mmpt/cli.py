"""The command line: parse, call, print. What a verb needs is imported when it is asked for."""

import argparse
import os
import sys
from collections.abc import Sequence

from mmpt.cli_build import add_build, add_processes, add_split, add_tokenizer, summarise
from mmpt.cli_evaluation import add_evaluation_verbs
from mmpt.cli_finetune import add_finetune_verbs
from mmpt.cli_pairs import add_pair_verbs
from mmpt.cli_training import add_training_verbs, add_verb
from mmpt.cli_units import add_hubert, add_units
from mmpt.errors import Interrupted, MmptError

USAGE, SAVED, INTERRUPTED, PROBLEMS = 2, 3, 130, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code.

    0 good, 1 problems found, 2 a mistake of the user's, 3 a run interrupted and saved, 130 interrupted.
    """
    arguments = _parsed(argv)
    try:
        return arguments.run(arguments)
    except Interrupted as stopped:
        _say(stopped)
        return SAVED
    except MmptError as error:
        _say(error)
        return USAGE
    except BrokenPipeError:
        # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("mmpt: interrupted; the same command again goes on\n")
        return INTERRUPTED


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Settings (key=value) may stand before or after options; argparse alone takes only the first group of them."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    settings = [word for word in rest if "=" in word and not word.startswith("-")]
    if "settings" in arguments:
        arguments.settings += settings
        rest = [word for word in rest if word not in settings]
    if rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _say(error: Exception) -> None:
    """One sentence, from one rank."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"mmpt: {error}\n")


def parser() -> argparse.ArgumentParser:
    """Every verb and its options."""
    top = argparse.ArgumentParser("mmpt", description="Multimodal masked-modelling pretraining over WebDataset shards.")
    verbs = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_build(verbs)
    add_index(verbs)
    add_inspect(verbs)
    add_training_verbs(verbs)
    add_evaluation_verbs(verbs)
    add_units(verbs)
    add_hubert(verbs)
    add_finetune_verbs(verbs)
    add_pair_verbs(verbs)
    # What the deepspeed launcher adds to every command; the rank itself comes from the environment.
    top.add_argument("--local_rank", help=argparse.SUPPRESS)
    return top


def add_index(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`mmpt index`."""
    index = add_verb(
        verbs,
        "index",
        "make a manifest for WebDataset tars that someone else wrote; the tars stay untouched",
        "mmpt index downloads/cc3m --field image=jpg,png --field text=txt --tokenizer roberta-base/",
    )
    index.add_argument("folder", metavar="DIR", help="searched for .tar files to the bottom")
    index.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=ENDING[,ENDING]",
        help="declare a field; may be repeated (default: found out from the plain endings)",
    )
    index.add_argument("--group-key", default="group", help="key in the JSON member that keeps samples in one split")
    add_tokenizer(index)
    add_split(index)
    index.set_defaults(run=run_index)


def add_inspect(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`mmpt inspect`."""
    inspect = add_verb(
        verbs,
        "inspect",
        "verify checksums and contents, show counts, lengths and a few samples; exit code 1 if there are problems",
        "mmpt inspect shards/photos --samples 5 --contact-sheet photos.png",
    )
    inspect.add_argument("folder", metavar="DIR", help="a data set with a manifest")
    inspect.add_argument("--samples", type=int, default=3, help="how many to show (default: 3)")
    inspect.add_argument(
        "--contact-sheet", metavar="PNG", help="write a sheet of pictures, evenly spread over the data set"
    )
    add_processes(inspect)
    inspect.set_defaults(run=run_inspect)


def run_index(arguments: argparse.Namespace) -> int:
    """Handler of `index`."""
    from mmpt.data.index import index_folder

    manifest = index_folder(
        arguments.folder,
        fields=_fields(arguments.field),
        group_key=arguments.group_key,
        tokenizer=arguments.tokenizer,
        vocabulary=arguments.vocabulary,
        algorithm=arguments.algorithm,
        split=tuple(arguments.split),
        processes=arguments.processes,
        progress=True,
    )
    return summarise(manifest)


def run_inspect(arguments: argparse.Namespace) -> int:
    """Handler of `inspect`."""
    from mmpt.data.inspect import inspect_folder

    inspection = inspect_folder(
        arguments.folder,
        samples=arguments.samples,
        contact_sheet=arguments.contact_sheet,
        processes=arguments.processes,
        progress=True,
    )
    sys.stdout.write(inspection.report() + "\n")
    return PROBLEMS if inspection.problems else 0


def _fields(declared: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    from mmpt.errors import DataError

    fields: dict[str, tuple[str, ...]] = {}
    for entry in declared:
        name, _, endings = entry.partition("=")
        if not name or not endings:
            raise DataError(f"--field {entry}: expected NAME=ENDING, for example image=jpg")
        fields[name] = tuple(ending.strip().lstrip(".").lower() for ending in endings.split(","))
    return fields or None
