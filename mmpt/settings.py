"""What stands in a recipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmpt.config import Component, component
from mmpt.data.source import SourceSettings
from mmpt.encoders import Modality
from mmpt.objectives import Objective
from mmpt.training.optimizers import Rule
from mmpt.trunk import Trunk


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a run reads.

    Args:
        sources: data sets by name; every step draws one of them, on all ranks.
        batch_size: bins of a global batch: samples, packed rows, or token budgets, as the source's layout says.
        micro_batch_size: bins that a device holds at once; None means its whole share of the batch.
        workers: loader processes a rank.
        temperature: None takes the sources' weights as they are; else a source's share is its weight times its tokens
            to the power of 1 / temperature: 1 draws in proportion to size, more lifts what is rare.
        max_bad_share: share of unreadable samples past which the run stops.
        max_bad_in_a_row: unreadable samples in a row after which it stops.
    """

    sources: dict[str, SourceSettings]
    batch_size: int
    micro_batch_size: int | None = None
    workers: int = 1
    temperature: float | None = None
    max_bad_share: float = 0.01
    max_bad_in_a_row: int = 100

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: expected at least one data set")
        for name in ("batch_size", "micro_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")
        if self.workers < 0:
            raise ValueError(f"workers: expected 0 or more, got {self.workers}")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How weights follow their gradients, and the learning rate.

    Args:
        learning_rate: the peak. weight_decay: decoupled (Loshchilov and Hutter 2017); only matrices decay.
        rule: AdamW for every weight, or another. betas, eps: AdamW's, of the weights that a rule leaves to it.
        schedule: shape after the warm-up. warmup_steps: of linear rise from 0.
        final_share: of the peak, at the last step (cosine and linear).
        clip_norm: of the gradient over all parameters; 0 clips nothing.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = "cosine"
    warmup_steps: int = 0
    final_share: float = 0.0
    clip_norm: float = 1.0
    rule: Component[Rule] = component(Rule, "adamw")

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "clip_norm", "final_share"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class OnlineProbeSettings:
    """What frozen features know of a label, scored while a run goes; it changes nothing of the run.

    Args:
        data: a data set with labels. label: their key. streams: that features are made from; None: all that it has.
        every: steps between two looks; there is one before the first step and one after the last, too.
        kind: of the probe. score: that is logged and that its settings are chosen by, inside the first split.
        splits: to fit on, and to be judged by: not the test split, since what is watched is chosen by.
        max_samples: of each split.
        skip_unlabelled: leave samples without the label out.
    """

    data: Path
    label: str
    streams: tuple[str, ...] | None = None
    every: int = 500
    kind: Literal["linear", "knn"] = "linear"
    score: Literal["accuracy", "balanced", "macro_f1"] = "accuracy"
    splits: tuple[str, str] = ("train", "validation")
    max_samples: int = 512
    skip_unlabelled: bool = False

    def __post_init__(self) -> None:
        for name in ("every", "max_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a run goes.

    Args:
        steps: optimiser steps.
        optimizer: how weights follow their gradients.
        seed: of weights, order, masks and everything else that is drawn.
        precision: `bf16` through autocast, or `fp32`; `auto` takes bf16 on CUDA devices that have it.
        log_every: steps between lines of metrics.
        save_every: steps between checkpoints. keep_last: how many of the newest stay.
        keep_every: checkpoints at multiples of this many steps stay for good; 0 keeps none.
        max_nonfinite: skipped updates in a row after which the run stops.
        balance_weight: of the balance loss of feed-forwards that route (EVE's), a mean over their layers.
        router_z_weight: of their z-loss, likewise.
        ep_size: ranks that divide the experts of such feed-forwards among themselves; a divisor of the number of ranks
            and of experts. A run may go on with another one.
        collapse: what to do when a model's own targets, its predictions of them or the latents behind them hardly
            differ from token to token.
        probes: of frozen features while the run goes, by a name of their own.
    """

    steps: int
    optimizer: OptimizerSettings
    seed: int = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    log_every: int = 10
    save_every: int = 500
    keep_last: int = 2
    keep_every: int = 0
    max_nonfinite: int = 10
    balance_weight: float = 0.001
    router_z_weight: float = 0.0
    ep_size: int = 1
    collapse: Literal["warn", "stop", "off"] = "warn"
    probes: dict[str, OnlineProbeSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "keep_last", "max_nonfinite", "ep_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("balance_weight", "router_z_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.optimizer.warmup_steps > self.steps:
            raise ValueError(
                f"optimizer.warmup_steps: {self.optimizer.warmup_steps} steps of warm-up in a run of {self.steps}; "
                "the peak would never be reached"
            )


@dataclass(frozen=True, kw_only=True)
class IterationSettings:
    """One round of HuBERT: features -> k-means units -> pretraining (Hsu et al. 2021, section II.D).

    Args:
        clusters: units.
        layer: of the trunk whose output is clustered, from 1; None: MFCCs; `auto`: the one whose units tell most of the
            labels `against`, by PNMI.
        against: a label of the samples, or a field with a label of each frame; for `layer: auto`.
        run: whose trunk that is; None: the run of the round before.
        share: of the training samples that the codebook is fitted to.
        passes: of k-means over them.
        settings: of the recipe, in this round alone (`training.steps=600`).
    """

    clusters: int
    layer: int | Literal["auto"] | None = None
    against: str | None = None
    run: Path | None = None
    share: float = 1.0
    passes: int = 5
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HubertSettings:
    """What `mmpt hubert` does with the recipe.

    Args:
        stream: that is labelled.
        iterations: one after the other.
        fit_on: the source whose training samples the codebooks are fitted to; None: the first with the stream.
        workers: processes that compute features for codebooks and labels, which are the same for any number of them.
    """

    stream: str
    iterations: tuple[IterationSettings, ...]
    fit_on: str | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        if not self.iterations:
            raise ValueError("iterations: expected at least one")
        first = self.iterations[0]
        if first.layer is not None and first.run is None:
            raise ValueError("iterations[0]: a layer of which run? set `run`, or leave `layer` out to begin with MFCCs")
        for number, iteration in enumerate(self.iterations):
            if iteration.run is not None and iteration.layer is None:
                raise ValueError(f"iterations[{number}]: `run` without `layer`; MFCCs are of no run")
            if (iteration.layer == "auto") != (iteration.against is not None):
                raise ValueError(
                    f"iterations[{number}]: `layer: auto` compares layers by what their units tell of labels that "
                    "`against` names; set both, or neither"
                )


@dataclass(frozen=True, kw_only=True)
class InitSettings:
    """What a run begins with instead of fresh weights; `init_from: PATH` is short for `init_from: {path: PATH}`.

    Args:
        path: a run folder, one of its checkpoints, a folder of `mmpt export`, or of transformers or timm; with
            `weights`, the name of an architecture of timm.
        step: of a run's checkpoint; None: the newest whole one.
        weights: a .safetensors file of timm's architecture `path`.
        streams: the recipe's stream -> the other model's. None: those with the same name; of a model of another
            library, which has one stream, the one that reads the same.
        partial: streams that the other model lacks begin with fresh weights; without it they are refused.
    """

    path: Path
    step: int | None = None
    weights: Path | None = None
    streams: dict[str, str] | None = None
    partial: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run, whole.

    Args:
        streams: the modalities, by the name of the field they read.
        trunk: what they share.
        objective: what a step does.
        data: what is read. training: how long and how.
        deepspeed: DeepSpeed's own configuration, passed through; what mmpt fills in may not stand here.
        hubert: the rounds of `mmpt hubert`.
        init_from: what encoders and trunk begin with instead of fresh weights; read before the first step and never
            again.
    """

    streams: dict[str, Component[Modality]]
    trunk: Component[Trunk]
    objective: Component[Objective]
    data: DataSettings
    training: TrainingSettings
    deepspeed: dict[str, Any] = field(default_factory=dict)
    hubert: HubertSettings | None = None
    init_from: Path | InitSettings | None = None

    @property
    def beginning(self) -> InitSettings | None:
        """`init_from`, however it was said."""
        return InitSettings(path=self.init_from) if isinstance(self.init_from, Path) else self.init_from

    def __post_init__(self) -> None:
        for name, source in self.data.sources.items():
            for stream in source.streams:
                if stream not in self.streams:
                    raise ValueError(
                        f"data.sources.{name}.streams: no stream '{stream}'; the recipe has {', '.join(self.streams)}"
                    )
