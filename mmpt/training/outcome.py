"""What an optimiser step came to, over all ranks and micro-batches."""

from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from mmpt.objectives import Step
from mmpt.tokens import Batch


class Outcome(NamedTuple):
    """One optimiser step, summed over ranks and micro-batches; on the host."""

    finite: bool
    metrics: dict[str, tuple[float, float]]  # sum and count
    gradient_norm: float  # before clipping
    extra: list[float]  # the numbers that the loop handed in, summed
    culprits: list[tuple[str, list[int]]]  # objective and uids of this rank's rows whose loss is not finite


def summed(batches: list[Batch], steps: list[Step], nonfinite: Bool[Tensor, ""], extra: list[float]) -> Outcome:
    """Sums over ranks of what their micro-batches gave; the gradient's norm is not known yet.

    Args:
        batches: this rank's micro-batches.
        steps: what the model gave for each.
        nonfinite: whether a loss or gradient of this rank is not finite.
        extra: numbers to be summed on the way.
    """
    metrics = list(steps[0].metrics)
    sums = []
    for part in (0, 1):
        sums += [torch.stack([step.metrics[name][part].double() for step in steps]).sum() for name in metrics]
    numbers = torch.stack([nonfinite.double(), *(total.double() for total in sums)])
    numbers = torch.cat([numbers, torch.tensor(extra, dtype=numbers.dtype, device=numbers.device)])
    torch.distributed.all_reduce(numbers)
    flag, *rest = numbers.tolist()  # the step's one wait for the device
    tops, counts, given_sums = rest[: len(metrics)], rest[len(metrics) : 2 * len(metrics)], rest[2 * len(metrics) :]
    figures = dict(zip(metrics, zip(tops, counts, strict=True), strict=True))
    culprits = []
    if flag:
        for batch, step in zip(batches, steps, strict=True):
            for name, loss in step.losses.items():
                culprits.append((name, batch.uid[~loss.rows.isfinite()].tolist()))
    return Outcome(not flag, figures, 0.0, given_sums, [c for c in culprits if c[1]])
