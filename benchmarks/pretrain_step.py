"""One optimiser step of mmpt beside one of transformers, in one process: text MLM and image MAE.

    python benchmarks/pretrain_step.py --threads 1

Both sides have the same weights, masks and optimiser (fused AdamW), and before anything is timed they must give the
same loss. A step is forward, backward and update, without DeepSpeed. mmpt's also draws its mask and starts from bytes
where images are concerned; the peer gets its masked ids, noise and normalised pixels ready-made.

Documents are of log-normal length (median 64 tokens, sigma 0.8, cut to 8..256). The rows of the table:

- mmpt, packed: documents best-fit packed into rows of 256 with attention inside each; logits of scored tokens alone.
- padded: run_mlm.py --line_by_line. The same documents, one a row, padded to the longest of the batch; all logits.
- length-grouped: the same with --group_by_length, which sorts within 50 batches; batches from all over that order.
- chunked: run_mlm.py without --line_by_line. No padding, but attention runs across documents.
- mmpt and ViTMAE: the same pictures of 96 x 96; 75 % of the patches hidden, pixels normalised per patch. Patches of 16,
  MAE's own size, and of 8, where attention and feed-forward, which are the same work on both sides, leave less to gain.

Rates are medians over repeats in which every side takes every batch once, in turns; `mmpt is` is the median of the
repeats' ratios. `of peak` is FLOPs counted from shapes, by time, by the rate of a large float32 product measured in the
same repeat. On a machine that others use too, `--clock cpu` counts the process's own seconds.
"""

import statistics
from collections.abc import Mapping, Sequence

import torch
from image_sides import FINE_IMAGE, SMALL_IMAGE, ImageSizes, image_contenders
from rich.console import Console
from rich.table import Table
from stepping import (
    CLOCKS,
    Contender,
    arguments_of,
    first_losses,
    measure,
)
from text_sides import SMALL_TEXT, TextSizes, text_contenders

GOALS = {"text": 2.5, "image": 1.15}


def add_rows(
    table: Table, name: str, contenders: Sequence[Contender], losses: Mapping[str, float], peaks: Sequence[float]
) -> None:
    """One row a contender; the first is mmpt."""
    kind = name.split()[0]
    rates = [[sum(c.useful) / spent for spent in c.seconds] for c in contenders]
    for contender, own in zip(contenders, rates, strict=True):
        first = contender is contenders[0]
        ratio = statistics.median(mine / theirs for mine, theirs in zip(rates[0], own, strict=True))
        paired = zip(contender.seconds, peaks, strict=True)
        table.add_row(
            name,
            contender.name,
            str(sum(contender.useful)),
            f"{1 - sum(contender.useful) / sum(contender.places):.1%}" if kind == "text" else "",
            f"{losses[contender.name]:.5f}" if contender.name in losses else "",
            f"{statistics.median(own):.1f}",
            "" if first else f"{ratio:.2f} x as fast",
            f"{GOALS[kind]} x" if contender is contenders[1] else "",
            f"{statistics.median(sum(contender.flops) / spent / peak for spent, peak in paired):.0%}",
        )
    table.add_section()


def main() -> None:
    """Print the table."""
    arguments = arguments_of(__doc__)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    text = SMALL_TEXT if arguments.small else TextSizes()
    images = [SMALL_IMAGE] if arguments.small else [ImageSizes(), FINE_IMAGE]
    groups = [("text", text_contenders(text, arguments.seed))]
    groups += [(f"image /{sizes.patch}", image_contenders(sizes, arguments.seed)) for sizes in images]
    table = Table(
        title=f"one step: {arguments.threads} thread(s), {arguments.repeats} repeats, {arguments.clock} clock"
    )
    for name in ("", "side", "useful", "padding", "loss", "useful/s", "mmpt is", "goal", "of peak"):
        table.add_column(name, justify="left" if name in ("", "side") else "right")
    peaks: list[float] = []
    for name, contenders in groups:
        losses = first_losses(contenders)
        own = measure(contenders, arguments.repeats, 64 if arguments.small else 1024, CLOCKS[arguments.clock])
        add_rows(table, name, contenders, losses, own)
        peaks += own
    table.caption = (
        "useful: tokens that are not padding, or images, of one repeat; "
        f"peak: {statistics.median(peaks) / 1e9:.1f} GFLOP/s in float32 products"
    )
    Console(width=132).print(table)


if __name__ == "__main__":
    main()
