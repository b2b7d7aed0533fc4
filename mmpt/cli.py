"""The command line: parse, call, print. What a verb needs is imported when it is asked for."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmpt.cli_training import add_training_verbs, add_verb
from mmpt.errors import Interrupted, MmptError

if TYPE_CHECKING:
    from mmpt.data.manifest import Manifest

USAGE, SAVED, INTERRUPTED, PROBLEMS = 2, 3, 130, 1
SHOWN_REASONS = 5


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
    # What the deepspeed launcher adds to every command; the rank itself comes from the environment.
    top.add_argument("--local_rank", help=argparse.SUPPRESS)
    return top


def add_build(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`mmpt build text|images`."""
    build = verbs.add_parser("build", help="turn raw files into shards with a manifest")
    kinds = build.add_subparsers(title="kinds", metavar="KIND", required=True)
    text = add_verb(
        kinds,
        "text",
        "documents from folders, .txt, .md, .jsonl(.gz) and .csv files",
        "mmpt build text books/ notes.jsonl.gz --out shards/text --vocabulary 16000",
    )
    text.add_argument("sources", nargs="+", metavar="SRC", help="folder (a .txt or .md file is a document), or file")
    text.add_argument("--text-key", default="text", help="the document in a JSON line or table row (default: text)")
    text.add_argument("--label-key", default="label", help="its label (default: label)")
    text.add_argument("--group-key", default="group", help="what keeps documents in one split (default: group)")
    _add_building(text)
    text.set_defaults(run=run_build_text)
    images = add_verb(
        kinds,
        "images",
        "a folder or .zip of png, jpg and webp pictures",
        "mmpt build images photos/ --out shards/photos --captions photos.csv --labels photos.csv --size 256",
    )
    images.add_argument("source", metavar="SRC", help="folder (searched to the bottom) or .zip")
    images.add_argument("--captions", metavar="FILE", help=".csv or .jsonl with columns file, caption (and group)")
    images.add_argument(
        "--labels", metavar="FILE", help=".csv or .jsonl with columns file, label (and group); may be the same"
    )
    images.add_argument(
        "--size", type=int, help="shrink the shorter side to so many pixels (default: keep the files' bytes)"
    )
    _add_building(images)
    images.set_defaults(run=run_build_images)


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
    _add_tokenizer(index)
    _add_split(index)
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
    _add_processes(inspect)
    inspect.set_defaults(run=run_inspect)


def run_build_text(arguments: argparse.Namespace) -> int:
    """Handler of `build text`."""
    from mmpt.data.builders.text import build_text

    manifest = build_text(
        arguments.sources,
        arguments.out,
        text_key=arguments.text_key,
        label_key=arguments.label_key,
        group_key=arguments.group_key,
        samples_per_shard=arguments.samples_per_shard,
        tokenizer=arguments.tokenizer,
        vocabulary=arguments.vocabulary,
        algorithm=arguments.algorithm,
        split=tuple(arguments.split),
        processes=arguments.processes,
        progress=True,
    )
    return _summarise(manifest)


def run_build_images(arguments: argparse.Namespace) -> int:
    """Handler of `build images`."""
    from mmpt.data.builders.images import build_images

    manifest = build_images(
        arguments.source,
        arguments.out,
        captions=arguments.captions,
        labels=arguments.labels,
        size=arguments.size,
        samples_per_shard=arguments.samples_per_shard,
        tokenizer=arguments.tokenizer,
        vocabulary=arguments.vocabulary,
        algorithm=arguments.algorithm,
        split=tuple(arguments.split),
        processes=arguments.processes,
        progress=True,
    )
    return _summarise(manifest)


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
    return _summarise(manifest)


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


def _add_building(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--out", required=True, metavar="DIR", help="new or empty folder; a half-built one is finished")
    verb.add_argument("--samples-per-shard", type=int, default=1000, help="inputs a tar at most (default: 1000)")
    _add_tokenizer(verb)
    _add_split(verb)


def _add_tokenizer(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--tokenizer", metavar="DIR", help="a local transformers tokenizer folder (default: train one)")
    verb.add_argument("--vocabulary", type=int, default=8192, help="size of a trained tokenizer (default: 8192)")
    verb.add_argument(
        "--algorithm", choices=("bpe", "wordpiece"), default="bpe", help="of a trained one (default: bpe)"
    )


def _add_split(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--split",
        nargs=3,
        type=float,
        default=(0.8, 0.1, 0.1),
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares among groups (default: 0.8 0.1 0.1)",
    )
    _add_processes(verb)


def _add_processes(verb: argparse.ArgumentParser) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    verb.add_argument(
        "--processes", type=int, default=cores, help=f"how many work; the result is the same (default: {cores})"
    )


def _fields(declared: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    from mmpt.errors import DataError

    fields: dict[str, tuple[str, ...]] = {}
    for entry in declared:
        name, _, endings = entry.partition("=")
        if not name or not endings:
            raise DataError(f"--field {entry}: expected NAME=ENDING, for example image=jpg")
        fields[name] = tuple(ending.strip().lstrip(".").lower() for ending in endings.split(","))
    return fields or None


def _summarise(manifest: "Manifest") -> int:
    """What came out, on stdout: folder, samples a split, bytes, and what was left out."""
    counts = ", ".join(f"{name} {count}" for name, count in manifest.statistics["splits"].items())
    size = sum(shard.size for shard in manifest.shards)
    lines = [
        f"{manifest.folder}: {len(manifest)} samples ({counts}) in {len(manifest.shards)} tars, {size / 1e6:.1f} MB"
    ]
    for name, own in manifest.fields.items():
        if "vocabulary" in own.facts:
            length = manifest.statistics[name]["length"]
            lines.append(f"{name}: {length['total']} tokens of a vocabulary of {own.facts['vocabulary']}")
    if rejected := manifest.statistics["rejected"]:
        first = [f"  {entry['input']}: {entry['reason']}" for entry in manifest.rejected[:SHOWN_REASONS]]
        where = Path(manifest.folder) / "manifest.json"
        lines += [
            f"left out: {rejected}",
            *first,
            *([f"  ... see 'rejected' in {where}"] if rejected > SHOWN_REASONS else []),
        ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
