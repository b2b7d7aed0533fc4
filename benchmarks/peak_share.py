"""How near ECG and laboratory encoders with a trunk come to the machine's matrix products, and where the rest goes.

    python benchmarks/peak_share.py --threads 1

A step is drawing the mask, forward, backward and a fused AdamW update, without DeepSpeed. `of peak` is the FLOPs of all
matrix products of a step, counted by torch, by time, by the rate of a large float32 product measured in the same
repeat; Fourier transforms, of convolutional positions, count for nothing in it. The columns behind it say where the
time of one more round went by torch's profiler, whose own cost weighs on steps of many small operations: matrix
products, attention's kernel, Fourier transforms, arithmetic number by number (norms, activations, losses), moving
numbers (gather, copy, concatenate), the update, drawing the mask, and autograd's own calls.

- ecg: 12 leads of 10 s at 100 Hz in strips of 25 samples, 480 tokens; 75 % dropped, a decoder of one block.
- ecg_stem: the same leads at 500 Hz through the convolutional stem, 312 tokens; 75 % dropped behind it.
- labs: 40 columns, of which a row has 20 to 40; half of the cells dropped.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stepping import CLOCKS, Contender, arguments_of, batch_of, measure, optimizer_of, wired
from torch.autograd.profiler_util import FunctionEvent
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from mmpt.config import component
from mmpt.encoders import Facts, Modality
from mmpt.model import MaskedModel
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.masked_prediction import StreamSettings
from mmpt.objectives.masking.algebra import MaskingSettings
from mmpt.objectives.predictors import Predictor
from mmpt.objectives.targets import Target
from mmpt.tokens import Batch
from mmpt.trunk.transformer import Transformer

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
MASK = "draw the mask"
GROUPS = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "addbmm"),
    "Fourier": ("_fft", "fft"),
    "attention": ("_scaled_dot_product", "scaled_dot_product", "_softmax"),
    "moving": (
        *("copy", "clone", "cat", "stack", "gather", "scatter", "index", "embedding", "take", "sort", "argsort"),
        *("contiguous", "new", "empty", "zeros", "ones", "fill", "zero", "repeat", "roll", "nonzero", "arange"),
    ),
    "update": ("_fused_adamw", "Optimizer"),
}
SHOWN = ("products", "attention", "Fourier", "arithmetic", "moving", "update", "mask", "calls")


@dataclass(frozen=True)
class Sizes:
    """Of the models and their batches."""

    width: int = 192
    depth: int = 4
    heads: int = 3
    decoder_width: int = 128
    rows: int = 8
    lab_rows: int = 128
    seconds: float = 10.0
    channels: int = 256
    columns: int = 40
    batches: int = 2


SMALL = Sizes(
    width=32, depth=1, heads=2, decoder_width=16, rows=2, lab_rows=4, seconds=1.0, channels=16, columns=6, batches=1
)


def model_of(name: str, modality: Modality, sizes: Sizes, target: str, ratio: float) -> MaskedModel:
    """Masked prediction with dropped tokens and a small decoder."""
    settings = StreamSettings(
        masking=MaskingSettings(ratio=ratio),
        corruption=component(Corruption, "drop"),
        predictor=component(Predictor, "decoder", width=sizes.decoder_width, depth=1, heads=2),
        target=component(Target, target),
    )
    return wired(name, modality, Transformer(1, width=sizes.width, depth=sizes.depth, heads=sizes.heads), settings)


def contender_of(
    name: str, modality: Modality, sizes: Sizes, batches: list[Batch], target: str, ratio: float
) -> Contender:
    """The steps of a model, with the FLOPs of each."""
    model = model_of(name, modality, sizes, target, ratio)
    losses = [partial(marked_loss, model, batch) for batch in batches]
    useful = [int(batch.streams[name].valid.sum()) for batch in batches]
    places = [batch.streams[name].valid.numel() for batch in batches]
    contender = Contender(name, losses, optimizer_of(model), useful, places)
    contender.flops = [flops_of(loss) for loss in losses]
    contender.optimizer.zero_grad(set_to_none=True)
    return contender


def marked_loss(model: MaskedModel, batch: Batch) -> torch.Tensor:
    """The mean over scored tokens; the profiler gets to know where the mask is drawn."""
    with record_function(MASK):
        hidden = model.hide(batch, 0.0)
    step = model(batch, hidden, 0.0)
    ((name, loss),) = step.losses.items()
    return loss.total / hidden[name].denominator


def flops_of(loss: Callable[[], torch.Tensor]) -> float:
    """Of forward and backward; torch counts nothing for the CPU's fused attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def ecg_contender(name: str, sizes: Sizes, seed: int) -> Contender:
    """Recordings of noise: their content costs nothing."""
    rate = 100 if name == "ecg" else 500
    facts = Facts(Path(), {"leads": LEADS, "sample_rate": rate, "unit": "mV"}, {"mean": [0.0] * 12, "std": [1.0] * 12})
    own, size = ("patch", 25) if name == "ecg" else ("channels", sizes.channels)
    modality = component(Modality, name, max_seconds=sizes.seconds, **{own: size}).build(facts)
    random = np.random.default_rng(seed)
    length = round(sizes.seconds * rate)
    batches = []
    for number in range(sizes.batches):
        signals = random.standard_normal((sizes.rows, length, 12), dtype=np.float32)
        content = modality.collate([[modality.read(signal, 0, length, None)] for signal in signals], None)
        batches.append(batch_of(name, content, number))
    return contender_of(name, modality, sizes, batches, "signal", 0.75)


def labs_contender(sizes: Sizes, seed: int) -> Contender:
    """Numeric columns, half to all of which a row has."""
    quantiles = np.linspace(-2, 2, 17).tolist()
    columns = [{"name": f"item {number}", "unit": "mmol/l", "kind": "numeric"} for number in range(sizes.columns)]
    fitted = {"count": 1000, "mean": 0.0, "std": 1.0, "low": -3.0, "high": 3.0, "quantiles": quantiles}
    facts = Facts(Path(), {"columns": columns}, {"columns": [fitted] * sizes.columns})
    modality = component(Modality, "labs", values="quantile").build(facts)
    random = np.random.default_rng(seed)
    batches = []
    for number in range(sizes.batches):
        rows = []
        for _ in range(sizes.lab_rows):
            count = random.integers(sizes.columns // 2, sizes.columns + 1)
            observed = np.sort(random.permutation(sizes.columns)[:count])
            cells = np.stack([observed, random.standard_normal(count)], axis=1)
            rows.append([modality.read(cells, 0, sizes.columns, None)])
        batches.append(batch_of("labs", modality.collate(rows, None), number))
    return contender_of("labs", modality, sizes, batches, "cells", 0.5)


# Where the time goes.


def shares_of(contender: Contender) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Of a step by group, and the operations that took most."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(len(contender.losses)):
            contender.step(number, CLOCKS["wall"])
    groups: dict[str, float] = dict.fromkeys(SHOWN, 0.0)
    operations: dict[str, float] = {}
    for event in profiler.events() or ():
        spent = event.self_cpu_time_total
        group = group_of(event)
        groups[group] += spent
        operations[event.name] = operations.get(event.name, 0.0) + spent
    total = sum(groups.values())
    largest = sorted(operations.items(), key=lambda item: -item[1])[:6]
    return {name: spent / total for name, spent in groups.items()}, [(name, spent / total) for name, spent in largest]


def group_of(event: FunctionEvent) -> str:
    """By the operation's name, or by the range that it stands in."""
    above: FunctionEvent | None = event
    while above is not None:
        if above.name == MASK:
            return "mask"
        above = above.cpu_parent
    rest = "arithmetic" if event.name.startswith("aten::") else "calls"
    name = event.name.removeprefix("aten::")
    return next((group for group, starts in GROUPS.items() if name.startswith(starts)), rest)


def add_row(table: Table, contender: Contender, peaks: Sequence[float]) -> str:
    """One encoder's figures; returns what its largest operations are."""
    shares, largest = shares_of(contender)
    paired = zip(contender.seconds, peaks, strict=True)
    steps = len(contender.losses)
    table.add_row(
        contender.name,
        str(sum(contender.useful) // steps),
        f"{sum(contender.flops) / steps / 1e9:.2f}",
        f"{statistics.median(contender.seconds) / steps * 1e3:.1f}",
        f"{statistics.median(sum(contender.flops) / spent / peak for spent, peak in paired):.0%}",
        *(f"{shares[group]:.0%}" for group in SHOWN),
    )
    return f"{contender.name}: " + ", ".join(f"{name.removeprefix('aten::')} {share:.0%}" for name, share in largest)


def main() -> None:
    """Print the table."""
    arguments = arguments_of(__doc__)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    sizes = SMALL if arguments.small else Sizes()
    contenders = [ecg_contender(name, sizes, arguments.seed) for name in ("ecg", "ecg_stem")]
    contenders.append(labs_contender(sizes, arguments.seed))
    peaks = measure(contenders, arguments.repeats, 64 if arguments.small else 1024, CLOCKS[arguments.clock])
    table = Table(
        title=f"one step: {arguments.threads} thread(s), {arguments.repeats} repeats, {arguments.clock} clock"
    )
    for name in ("encoder", "tokens", "GFLOP", "ms", "of peak", *SHOWN):
        table.add_column(name, justify="left" if name == "encoder" else "right")
    notes = [add_row(table, contender, peaks) for contender in contenders]
    table.caption = "\n".join([f"peak: {statistics.median(peaks) / 1e9:.1f} GFLOP/s in float32 products", *notes])
    Console(width=132).print(table)


if __name__ == "__main__":
    main()
