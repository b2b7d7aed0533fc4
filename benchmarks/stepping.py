"""What the benchmarks of training steps share: sides taking turns, one clock, copied weights, the command line."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmpt.encoders import Modality
from mmpt.model import Backbone, MaskedModel
from mmpt.objectives.masked_prediction import MaskedPrediction, StreamSettings
from mmpt.tokens import Batch, Content
from mmpt.trunk.transformer import Transformer

TOLERANCE = 1e-4
EPS = 1e-6  # of every norm
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Contender:
    """One row of the table: what a step costs and what it is worth, batch by batch."""

    name: str
    losses: list[Callable[[], Tensor]]
    optimizer: torch.optim.Optimizer
    useful: list[int]  # tokens that are not padding, or images
    places: list[int]
    flops: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of every repeat, all batches together

    def step(self, number: int, clock: Clock) -> float:
        """Forward, backward, update; returns seconds."""
        began = clock()
        self.losses[number]().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return clock() - began


def block_flops(width: int, seen: int) -> float:
    """One token through one block, forward: four square matrices, two of the feed-forward, scores and mixing."""
    return 24 * width**2 + 4 * seen * width


def block_weights(peer: Mapping[str, Tensor], theirs: str, ours: str, names: Sequence[str]) -> dict[str, Tensor]:
    """A block's weights; `names` are the peer's norm1, query, key, value, proj, norm2, fc1 and fc2."""
    own = ("norm1", "attention.proj", "norm2", "feedforward.mlp.fc1", "feedforward.mlp.fc2")
    mine = {}
    for kind in ("weight", "bias"):
        first, *qkv, proj, second, fc1, fc2 = (peer[f"{theirs}.{name}.{kind}"] for name in names)
        mine |= {f"{ours}.{n}.{kind}": v for n, v in zip(own, (first, proj, second, fc1, fc2), strict=True)}
        mine[f"{ours}.attention.qkv.{kind}"] = torch.cat(qkv)
    return mine


def layer(peer: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """Weight and bias of one module."""
    return {f"{ours}.{kind}": peer[f"{theirs}.{kind}"] for kind in ("weight", "bias")}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """What is not trained stays as it is."""
    return dict(model.named_buffers())


def shaken(peer: nn.Module) -> nn.Module:
    """Noise on every weight, so that no norm or bias is its neutral self when the losses are compared."""
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return peer.train()


def wired(
    name: str, modality: Modality, trunk: Transformer, settings: StreamSettings, **of_objective: Any
) -> MaskedModel:
    """A model of one stream."""
    modalities = {name: modality}
    backbone = Backbone(modalities, trunk)
    objective = MaskedPrediction(backbone, modalities, streams={name: settings}, **of_objective)
    return MaskedModel(backbone, objective).train()


def batch_of(name: str, content: Content, number: int) -> Batch:
    """Rows with their own keys of random numbers."""
    uid = torch.arange(len(content.values)) + number * len(content.values)
    return Batch({name: content}, uid, uid + 1, name, number)


def mmpt_loss(model: MaskedModel, batch: Batch) -> Tensor:
    """Draw the mask, compute, divide the sum by the number of scored tokens."""
    hidden = model.hide(batch, 0.0)
    step = model(batch, hidden, 0.0)
    ((name, loss),) = step.losses.items()
    return loss.total / hidden[name].denominator


def peer_loss(peer: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The peer's own mean over scored tokens."""
    return peer(**batch).loss


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """The same for both sides."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)


def first_losses(contenders: Sequence[Contender]) -> dict[str, float]:
    """Before any training; the first two contenders must agree on every batch, for they have the same work."""
    with torch.no_grad():
        ours, peer = ([float(loss()) for loss in contender.losses] for contender in contenders[:2])
    for mine, theirs in zip(ours, peer, strict=True):
        if abs(mine - theirs) > TOLERANCE:
            raise SystemExit(f"{contenders[0].name}: loss {mine}, {contenders[1].name}: {theirs}; they must be equal")
    return {contender.name: losses[0] for contender, losses in zip(contenders[:2], (ours, peer), strict=True)}


def measure_peak(size: int, clock: Clock, products: int = 3) -> float:
    """FLOPs a second of a large float32 product: the best of a few."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(products):
        began = clock()
        left @ right
        best = min(best, clock() - began)
    return 2 * size**3 / best


def measure(contenders: Sequence[Contender], repeats: int, peak_size: int, clock: Clock) -> list[float]:
    """Fill in the seconds of every repeat; returns the peak of each."""
    peaks = []
    for repeat in range(-1, repeats):  # the first round warms up
        peak = measure_peak(peak_size, clock)
        seconds = [0.0] * len(contenders)
        for number in range(len(contenders[0].losses)):
            turn = (repeat + number) % len(contenders)  # none always comes first
            for place in [*range(turn, len(contenders)), *range(turn)]:
                seconds[place] += contenders[place].step(number, clock)
        if repeat >= 0:
            peaks.append(peak)
            for contender, spent in zip(contenders, seconds, strict=True):
                contender.seconds.append(spent)
    return peaks


def arguments_of(about: str | None, *flags: tuple[str, str]) -> argparse.Namespace:
    """The command line; `flags` are (name, help) of switches that a benchmark has of its own."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch, for all sides and the peak")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of which medians are taken")
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that it runs, says nothing of speed")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: this process's seconds, for one thread")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    for name, what in flags:
        parser.add_argument(name, action="store_true", help=what)
    arguments = parser.parse_args()
    if arguments.clock == "cpu" and arguments.threads > 1:
        parser.error("--clock cpu adds up the seconds of all threads; use it with --threads 1")
    return arguments
