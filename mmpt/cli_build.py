"""The verb `build`: raw files of every modality into shards with a manifest."""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mmpt.cli_training import add_verb

if TYPE_CHECKING:
    from mmpt.data.manifest import Manifest

SHOWN_REASONS = 5


def add_build(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`mmpt build text|images|video|speech|ecg|labs`."""
    build = verbs.add_parser("build", help="turn raw files into shards with a manifest")
    kinds = build.add_subparsers(title="kinds", metavar="KIND", required=True)
    for name, add in (
        ("text", _add_text),
        ("images", _add_images),
        ("video", _add_video),
        ("speech", _add_speech),
        ("ecg", _add_ecg),
        ("labs", _add_labs),
    ):
        verb = add(kinds)
        _add_building(verb)
        verb.set_defaults(run=run_build, builder=name)


def _add_text(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    text = add_verb(
        kinds,
        "text",
        "documents from folders, .txt, .md, .jsonl(.gz) and .csv files",
        "mmpt build text books/ notes.jsonl.gz --out shards/text --vocabulary 16000",
    )
    text.add_argument("source", nargs="+", metavar="SRC", help="folder (a .txt or .md file is a document), or file")
    text.add_argument("--text-key", default="text", help="the document in a JSON line or table row (default: text)")
    text.add_argument("--label-key", default="label", help="its label (default: label)")
    text.add_argument("--group-key", default="group", help="what keeps documents in one split (default: group)")
    return text


def _add_images(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
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
    return images


def _add_video(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    video = add_verb(
        kinds,
        "video",
        "animated gif, png and webp files, folders of numbered frames, and films where PyAV is installed",
        "mmpt build video clips/ --out shards/clips --frames 32 --size 128 --labels clips.csv",
    )
    video.add_argument("source", metavar="SRC", help="folder (searched to the bottom) or .zip")
    video.add_argument("--captions", metavar="FILE", help=".csv or .jsonl with columns file, caption (and group)")
    video.add_argument(
        "--labels", metavar="FILE", help=".csv or .jsonl with columns file, label (and group); may be the same"
    )
    video.add_argument(
        "--frames", type=int, default=64, help="cut longer videos into clips of at most so many frames (default: 64)"
    )
    video.add_argument(
        "--size", type=int, help="shrink the shorter side to so many pixels (default: keep the frames' own)"
    )
    video.add_argument(
        "--storage",
        choices=("mjpeg", "apng"),
        default="mjpeg",
        help="of the members; apng is lossless (default: mjpeg)",
    )
    return video


def _add_speech(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    speech = add_verb(
        kinds,
        "speech",
        "a folder or .zip of wav, flac, ogg, opus and mp3 recordings",
        "mmpt build speech recordings/ --out shards/speech --transcripts clips.csv --sample-rate 16000",
    )
    speech.add_argument("source", metavar="SRC", help="folder (searched to the bottom) or .zip")
    speech.add_argument(
        "--transcripts",
        metavar="FILE",
        help=".csv or .jsonl with columns file, text (and group); default: a .txt or .lab beside each recording",
    )
    speech.add_argument("--labels", metavar="FILE", help=".csv or .jsonl with columns file, label (and group)")
    speech.add_argument(
        "--sample-rate", type=int, metavar="HZ", help="resample to this rate (default: the first file's)"
    )
    speech.add_argument(
        "--max-seconds", type=float, metavar="S", help="cut longer ones at quiet places; with a transcript: leave out"
    )
    speech.add_argument("--storage", choices=("flac", "wav"), default="flac", help="of the members (default: flac)")
    return speech


def _add_ecg(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    ecg = add_verb(
        kinds,
        "ecg",
        "WFDB or EDF records, NumPy arrays or CSV files",
        "mmpt build ecg records/ --out shards/ecg --labels diagnoses.csv --reports reports.csv --sample-rate 500",
    )
    ecg.add_argument("source", metavar="SRC", help="folder of records, or one .npy/.npz with an array N T or N T C")
    ecg.add_argument("--labels", metavar="FILE", help=".csv or .jsonl with columns file (or row), label, patient ...")
    ecg.add_argument("--reports", metavar="FILE", help=".csv or .jsonl with columns file (or row) and report")
    ecg.add_argument("--leads", nargs="+", metavar="NAME", help="leads to keep, or names of an array's columns")
    ecg.add_argument(
        "--sample-rate", type=float, metavar="HZ", help="resample to this rate (default: the first record's)"
    )
    ecg.add_argument("--source-rate", type=float, metavar="HZ", help="rate of arrays and CSV files, which don't say it")
    ecg.add_argument("--unit", help="of arrays and CSV files: V, mV, uV, nV, or none to keep values as they are")
    ecg.add_argument("--max-seconds", type=float, metavar="S", help="cut longer records into pieces (default: never)")
    return ecg


def _add_labs(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    labs = add_verb(
        kinds,
        "labs",
        "a table of laboratory values, a row a patient or a row a measurement",
        "mmpt build labs values.csv --out shards/labs --columns crea bun sod --units units.csv --label-key diagnosis",
    )
    labs.add_argument("source", metavar="TABLE", help=".csv(.gz), .tsv(.gz) or .parquet")
    labs.add_argument("--form", choices=("auto", "wide", "long"), default="auto", help="of the table (default: auto)")
    labs.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="the lab columns, or items of the long form (default: all that are no key)",
    )
    labs.add_argument(
        "--categorical", nargs="+", default=(), metavar="NAME", help="lab columns that hold categories, not numbers"
    )
    labs.add_argument("--units", metavar="FILE", help=".csv with columns column and unit, or .json or .yaml")
    labs.add_argument("--labels", nargs="+", default=(), metavar="NAME", help="other columns to keep as labels")
    for key, what in (
        ("id", "patient"),
        ("group", "group"),
        ("label", "label"),
        ("note", "note"),
        ("item", "item"),
        ("value", "value"),
        ("unit", "unit"),
        ("time", "time"),
        ("visit", "visit"),
    ):
        labs.add_argument(f"--{key}-key", default=what, metavar="NAME", help=f"the column (default: {what})")
    labs.add_argument(
        "--aggregate",
        choices=("first", "last", "mean"),
        default="last",
        help="which of a sample's repeated values counts (default: last)",
    )
    labs.add_argument(
        "--clip",
        nargs=2,
        type=float,
        default=(0.001, 0.999),
        metavar=("LOW", "HIGH"),
        help="clip values at these quantiles",
    )
    return labs


def run_build(arguments: argparse.Namespace) -> int:
    """Handler of every kind: an option is called as the builder's parameter is."""
    options = {name: value for name, value in vars(arguments).items() if name not in ("run", "builder", "local_rank")}
    source, out = options.pop("source"), options.pop("out")
    module = import_module(f"mmpt.data.builders.{arguments.builder}")
    build = getattr(module, f"build_{arguments.builder}")
    options |= {name: tuple(options[name]) for name in ("split", "clip") if name in options}
    manifest = build(source, out, **options, progress=True)
    return summarise(manifest, module.summary_lines(manifest))


def _add_building(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--out", required=True, metavar="DIR", help="new or empty folder; a half-built one is finished")
    verb.add_argument("--samples-per-shard", type=int, default=1000, help="inputs a tar at most (default: 1000)")
    add_tokenizer(verb)
    add_split(verb)


def add_tokenizer(verb: argparse.ArgumentParser) -> None:
    """Options of whatever has texts."""
    verb.add_argument("--tokenizer", metavar="DIR", help="a local transformers tokenizer folder (default: train one)")
    verb.add_argument("--vocabulary", type=int, default=8192, help="size of a trained tokenizer (default: 8192)")
    verb.add_argument(
        "--algorithm", choices=("bpe", "wordpiece"), default="bpe", help="of a trained one (default: bpe)"
    )


def add_split(verb: argparse.ArgumentParser) -> None:
    """Options of whatever divides samples."""
    verb.add_argument(
        "--split",
        nargs=3,
        type=float,
        default=(0.8, 0.1, 0.1),
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares among groups (default: 0.8 0.1 0.1)",
    )
    add_processes(verb)


def add_processes(verb: argparse.ArgumentParser) -> None:
    """How many work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    verb.add_argument(
        "--processes", type=int, default=cores, help=f"how many work; the result is the same (default: {cores})"
    )


def summarise(manifest: "Manifest", about: list[str] | None = None) -> int:
    """What came out, on stdout: folder, samples a split, bytes, what is special, and what was left out."""
    counts = ", ".join(f"{name} {count}" for name, count in manifest.statistics["splits"].items())
    size = sum(shard.size for shard in manifest.shards)
    lines = [
        f"{manifest.folder}: {len(manifest)} samples ({counts}) in {len(manifest.shards)} tars, {size / 1e6:.1f} MB",
        *(about or []),
    ]
    for name, own in manifest.fields.items():
        if "vocabulary" in own.facts:
            length = manifest.statistics[name]["length"]
            lines.append(f"{name}: {length['total']} tokens of a vocabulary of {own.facts['vocabulary']}")
    if halves := manifest.origin.get("halves"):
        lines += [f"torn apart: {halves['count']}", *(f"  {line}" for line in halves["first"][:SHOWN_REASONS])]
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
