"""The verbs after pretraining: finetune, evaluate, predict, embed, export, compress."""

import argparse
from pathlib import Path

from mmpt.cli_training import EXITS, add_verb, console_for_tables

FINETUNE = """a recipe says:
  encoder: runs/five
  task: {type: classifier, label: label, inputs: [ecg]}
  train: shards/ecg
  strategy: {type: full, layer_decay: 0.75}
  fit: {epochs: 10, metric: macro_f1}
other tasks: multi_label, regressor, token_tagger (words, frames, patches), ctc (transcripts), segmenter (pixels),
retrieval (pairs of streams); docs/methods.md says more
"""


def add_finetune_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """All of them."""
    finetune = add_verb(
        verbs,
        "finetune",
        "train a head, and the encoder under it, on labels; or go on with what the folder holds",
        "mmpt finetune ecg_classes --out runs/beats encoder=runs/five\n"
        "  deepspeed --num_accelerators 2 --module mmpt finetune ecg_classes --out runs/beats encoder=runs/five",
        f"{FINETUNE}\n{EXITS}",
    )
    finetune.add_argument(
        "recipe",
        metavar="RECIPE",
        help="YAML file, or one of ecg_classes, image_text_pairs, medfuse_labs_note, speech_letters",
    )
    finetune.add_argument("settings", nargs="*", metavar="key=value", help="replaces the recipe's, as fit.epochs=3")
    finetune.add_argument("--out", metavar="DIR", required=True, help="gets the fitted task")
    finetune.set_defaults(run=run_finetune)

    evaluate = add_verb(
        verbs,
        "evaluate",
        "score a fine-tuned task on labelled samples, with intervals, beside one who never looks at a sample",
        "mmpt evaluate runs/beats shards/ecg/test",
    )
    evaluate.add_argument("task", metavar="TASK", help="folder of 'mmpt finetune'")
    evaluate.add_argument("data", metavar="DATA", help="data set (its split test), or a data set and a split")
    evaluate.set_defaults(run=run_evaluate)

    predict = add_verb(
        verbs,
        "predict",
        "write what a fine-tuned task says of every sample",
        "mmpt predict runs/beats shards/ecg/test --out beats.csv",
    )
    predict.add_argument("task", metavar="TASK", help="folder of 'mmpt finetune'")
    predict.add_argument("data", metavar="DATA", help="data set (its split test), or a data set and a split")
    predict.add_argument("--out", metavar="FILE", required=True, help="a .csv or .parquet file that is not there yet")
    predict.set_defaults(run=run_predict)

    embed = add_verb(
        verbs,
        "embed",
        "write the features of every sample; goes on where it was stopped",
        "mmpt embed runs/five shards/ecg --out ecg.parquet",
    )
    embed.add_argument("run_folder", metavar="RUN", help="run folder, a fitted task, or another library's folder")
    embed.add_argument("data", metavar="DATA", help="data set")
    embed.add_argument("--out", metavar="FILE", required=True, help="a .parquet file that is not there yet")
    embed.add_argument(
        "--streams", metavar="A,B", help="fields to encode (default: all the run knows, or a task's inputs)"
    )
    embed.add_argument(
        "--pool",
        choices=("mean", "mean_std", "class", "own"),
        help="of a sample's tokens; own: the pool that the run (objective embedding) or the fitted task was trained "
        "with (default: own where there is one, else mean)",
    )
    embed.set_defaults(run=run_embed)
    add_export(verbs)
    add_compress(verbs)


def add_compress(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`mmpt compress`."""
    compress = add_verb(
        verbs,
        "compress",
        "make a smaller model of a run: fewer blocks, sparse weights, a student; with a table of what it costs",
        "mmpt compress depth --out runs/shallow run=runs/ecg_mae data=shards/ecg",
        f"{EXITS}     (students, who are trained; other methods begin anew)\n",
    )
    compress.add_argument("recipe", metavar="RECIPE", help="YAML file, or one of depth, student, two_four")
    compress.add_argument("settings", nargs="*", metavar="key=value", help="replaces the recipe's, as method.depth=2")
    compress.add_argument("--out", metavar="DIR", required=True, help="gets the run folder")
    compress.set_defaults(run=run_compress)


def add_export(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`mmpt export`."""
    export = add_verb(
        verbs,
        "export",
        "write an encoder in the form of another library, with a certificate that it computes the same",
        "mmpt export runs/five --to transformers --modality text --out five-text",
    )
    export.add_argument("run_folder", metavar="RUN", help="run folder, a fitted task, or another library's folder")
    export.add_argument(
        "--to", required=True, choices=("transformers", "timm", "safetensors", "onnx"), help="which library reads it"
    )
    export.add_argument("--out", required=True, metavar="DIR", help="a folder that is not there yet")
    export.add_argument("--modality", metavar="M", help="one stream alone; needed where the library takes no more")
    export.add_argument("--step", type=int, metavar="N", help="of the checkpoint (default: the newest)")
    export.add_argument("--licence", metavar="ID", help="of the weights, for the model card, such as cc-by-4.0")
    export.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> int:
    """`mmpt export`."""
    from mmpt.export.command import export

    certificate = export(
        arguments.run_folder,
        arguments.out,
        to=arguments.to,
        modality=arguments.modality,
        step=arguments.step,
        licence=arguments.licence,
    )
    console_for_tables().print(
        f"{arguments.out}: latents differ by at most {certificate['largest_difference']:.2g}", markup=False
    )
    return 0


def run_finetune(arguments: argparse.Namespace) -> int:
    """`mmpt finetune`."""
    import sys

    sys.path.insert(0, "")  # parts of the user's own, named as my_package.my_part
    from mmpt.finetune.recipe import finetune
    from mmpt.training.world import place

    console = console_for_tables()
    result = finetune(arguments.recipe, *arguments.settings, out=arguments.out, console=console)
    if place()[0] == 0:
        console.print(result.table())
        console.print(f"task: {arguments.out}", markup=False)
    return 0


def run_compress(arguments: argparse.Namespace) -> int:
    """`mmpt compress`."""
    from mmpt.compress.command import compress

    console = console_for_tables()
    console.print(compress(arguments.recipe, *arguments.settings, out=arguments.out, console=console).table())
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    """`mmpt evaluate`."""
    from rich.table import Table

    from mmpt.finetune.saved import load

    task = load(arguments.task)
    table = Table("metric", "score and 95 % interval", "trivial", title=f"{task.title}: {arguments.data}")
    for name, value in task.evaluate(arguments.data).items():
        table.add_row(name, str(value), f"{value.trivial:.3f}")
    console_for_tables().print(table)
    return 0


def run_predict(arguments: argparse.Namespace) -> int:
    """`mmpt predict`."""
    from mmpt.finetune.predictions import write_predictions

    count = write_predictions(arguments.task, arguments.data, Path(arguments.out))
    console_for_tables().print(f"{arguments.out}: {count} samples", markup=False)
    return 0


def run_embed(arguments: argparse.Namespace) -> int:
    """`mmpt embed`."""
    from mmpt.downstream.embed import embed
    from mmpt.downstream.result import TASK

    streams = arguments.streams.split(",") if arguments.streams else None
    pool = arguments.pool
    if pool in (None, "own") and (Path(arguments.run_folder) / TASK).exists():
        from mmpt.finetune.saved import load, pooling_of

        task = load(arguments.run_folder)
        if pool == "own" or task.pooled:
            pool, streams = pooling_of(task), streams or list(task.inputs)
    console = console_for_tables()
    out = Path(arguments.out)
    count = embed(arguments.run_folder, arguments.data, out, streams=streams, pool=pool, console=console)
    console.print(f"{out}: {count} samples", markup=False)
    return 0
