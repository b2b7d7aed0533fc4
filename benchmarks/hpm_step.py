"""What hard patch mining costs: its step beside that of the plain masked autoencoder of the same shapes.

    python benchmarks/hpm_step.py --threads 1

All sides get the same pictures of 96 x 96 in patches of 8, hide 75 % of them and predict pixels with a decoder. A step
is drawing the mask, forward, backward and a fused AdamW update, without DeepSpeed; that of hard patch mining has the
teacher's look at complete pictures and its following, too. The sides take turns batch by batch, and `x MAE` is the
median of the repeats' ratios; the goal is 1.6. FLOPs are counted by torch, of forward, backward and teacher.

- loss predictor alone: nobody is asked what to hide.
- hard patch mining: the loss predictor is as deep as the decoder, as in the paper.
- one block: the same with a loss predictor of a single block.
- one block, quick look: and the teacher, whose numbers are only ranked, looks with `precision: auto`, which is bfloat16
  where the processor multiplies it natively. The rest is in float32, as on the other sides. The recipe has this.
- two masks: one block, and every picture is hidden twice a step (`masks_per_sample: 2`), of half as many pictures; the
  teacher looks once at each. As many rows go through the model as on the other sides.
"""

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stepping import CLOCKS, Contender, arguments_of, batch_of, measure, mmpt_loss, optimizer_of, wired
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmpt.config import component
from mmpt.encoders import Facts
from mmpt.encoders.image import Image
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.loss_prediction import LossPredictionSettings
from mmpt.objectives.masked_prediction import StreamSettings
from mmpt.objectives.masking.algebra import MaskingSettings
from mmpt.objectives.masking.importance import Importance
from mmpt.objectives.predictors import Predictor
from mmpt.objectives.targets import Target
from mmpt.objectives.teacher import TeacherSettings
from mmpt.tokens import Batch
from mmpt.trunk.transformer import Transformer

GOAL = 1.6


@dataclass(frozen=True)
class Sizes:
    """Of the model and its batches."""

    pixels: int = 96
    patch: int = 8
    width: int = 192
    depth: int = 6
    heads: int = 3
    decoder_width: int = 128
    decoder_depth: int = 4
    images: int = 16
    batches: int = 3


SMALL = Sizes(pixels=16, patch=4, width=48, depth=2, decoder_width=32, decoder_depth=2, images=4, batches=2)


def settings_of(sizes: Sizes, loss_depth: int, *, guided: bool) -> StreamSettings:
    """A masked autoencoder; `loss_depth` 0 is the plain one."""
    decoder = partial(component, Predictor, "decoder", width=sizes.decoder_width, heads=4)
    importance = component(Importance, "predicted_loss", start=0.5) if guided else component(Importance, "uniform")
    return StreamSettings(
        masking=MaskingSettings(ratio=0.75, importance=importance),
        corruption=component(Corruption, "drop"),
        predictor=decoder(depth=sizes.decoder_depth),
        target=component(Target, "pixels"),
        loss_predictor=LossPredictionSettings(predictor=decoder(depth=loss_depth)) if loss_depth else None,
    )


@dataclass(frozen=True)
class Side:
    """What is compared."""

    name: str
    loss_depth: int
    guided: bool = True
    teacher: TeacherSettings | None = None
    masks: int = 1


def contender_of(side: Side, image: Image, batches: list[Batch], sizes: Sizes) -> Contender:
    """One side; its teacher follows whenever its optimiser has stepped."""
    trunk = Transformer(1, width=sizes.width, depth=sizes.depth, heads=sizes.heads)
    settings = settings_of(sizes, side.loss_depth, guided=side.guided)
    model = wired("image", image, trunk, settings, teacher=side.teacher, masks_per_sample=side.masks)
    batches = [part_of(batch, sizes.images // side.masks) for batch in batches]
    losses, optimizer = [partial(mmpt_loss, model, batch) for batch in batches], optimizer_of(model)
    counts = [sizes.images] * len(batches)
    # torch counts nothing for the CPU's fused attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        losses[0]().backward()
    optimizer.zero_grad(set_to_none=True)
    optimizer.register_step_post_hook(lambda *_: model.after_update(0.0))
    return Contender(side.name, losses, optimizer, counts, counts, [float(counter.get_total_flops())] * len(batches))


def part_of(batch: Batch, rows: int) -> Batch:
    """Its first rows."""
    streams = {
        name: content._replace(**{field: getattr(content, field)[:rows] for field in content._fields[:5]})
        for name, content in batch.streams.items()
    }
    return batch._replace(streams=streams, uid=batch.uid[:rows], draw=batch.draw[:rows])


def contenders_of(sizes: Sizes, seed: int) -> list[Contender]:
    """The plain autoencoder first."""
    image, random = Image(Facts(Path()), size=sizes.pixels, patch=sizes.patch), np.random.default_rng(seed)
    shape = (sizes.images, 1 + image.num_patches, image.patch_numbers)
    pictures = [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(sizes.batches)]
    batches = [
        batch_of("image", image.collate([[patches] for patches in own], None), n) for n, own in enumerate(pictures)
    ]
    depth, quick = sizes.decoder_depth, TeacherSettings(precision="auto")
    sides = (
        Side("masked autoencoder", 0, guided=False),
        Side("loss predictor alone", depth, guided=False),
        Side("hard patch mining", depth),
        Side("hard patch mining, one block", 1),
        Side("hard patch mining, one block, quick look", 1, teacher=quick),
        Side("hard patch mining, one block, two masks", 1, masks=2),
    )
    return [contender_of(side, image, batches, sizes) for side in sides]


def main() -> None:
    """Print the table."""
    arguments = arguments_of(__doc__)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    contenders = contenders_of(SMALL if arguments.small else Sizes(), arguments.seed)
    peaks = measure(contenders, arguments.repeats, 64 if arguments.small else 1024, CLOCKS[arguments.clock])
    table = Table(
        title=f"one step: {arguments.threads} thread(s), {arguments.repeats} repeats, {arguments.clock} clock"
    )
    for name in ("side", "ms", "x MAE", "goal", "GFLOP", "x MAE's"):
        table.add_column(name, justify="left" if name == "side" else "right")
    plain = contenders[0]
    for contender in contenders:
        ratios = [mine / theirs for mine, theirs in zip(contender.seconds, plain.seconds, strict=True)]
        table.add_row(
            contender.name,
            f"{1000 * statistics.median(contender.seconds) / len(contender.losses):.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{GOAL}" if contender.name.startswith("hard") else "",
            f"{contender.flops[0] / 1e9:.2f}",
            f"{contender.flops[0] / plain.flops[0]:.2f}",
        )
    table.caption = f"peak: {statistics.median(peaks) / 1e9:.1f} GFLOP/s in float32 products"
    Console(width=132).print(table)


if __name__ == "__main__":
    main()
