"""A pretrained encoder for downstream work: samples in, features out."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, overload

import torch
from jaxtyping import Float
from torch import Tensor

from mmpt.build import build_backbone, build_modalities, build_pool, load_facts, load_weights
from mmpt.data.manifest import sha256_of
from mmpt.downstream.pooling import (
    Features,
    LacksTokens,
    class_pool,
    describe,
    join,
    mean_pool,
    mean_std_pool,
    pool_by,
)
from mmpt.downstream.result import TASK
from mmpt.downstream.samples import collated, prepared, unknown_stream
from mmpt.encoders import Modality
from mmpt.errors import CheckpointError, ConfigError, DataError
from mmpt.foreign.donor import WeightsWarning, is_foreign, read_donor
from mmpt.foreign.origin import Origin, origin_of
from mmpt.model import Backbone
from mmpt.parts import unknown
from mmpt.pools import Pool, TokenLatents
from mmpt.settings import Recipe
from mmpt.tokens import Batch, Content
from mmpt.training import checkpoint
from mmpt.training.run import load_recipe, run_and_step

SORTED_AT_ONCE = 16  # mini-batches whose samples are sorted by length together, so that few tokens are padding
Pooling = Callable[[Mapping[str, TokenLatents]], Tensor]  # (B, F) of the latents of all streams
POOLS: dict[str, Pooling] = {
    "mean": mean_pool,
    "mean_std": mean_std_pool,
    "class": class_pool,
}
PoolName = Literal["mean", "mean_std", "class", "own"]

Samples = Batch | Mapping[str, Any] | Iterable[Mapping[str, Any]]


class CutWarning(UserWarning):
    """Samples were longer than the encoder's longest piece; only their beginnings were encoded."""


def load(
    run: str | Path,
    *,
    step: int | None = None,
    untrained: bool = False,
    device: str | torch.device | None = None,
    weights: str | Path | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> "Encoder":
    """The backbone of a run, frozen; or a model of transformers or timm, as if it were one.

    Args:
        run: the run folder; needs neither the shards it was trained on nor DeepSpeed. Or one of its checkpoints; a
            folder of transformers (BERT, RoBERTa, RobertaPreLayerNorm, ViT, ViTMAE, HuBERT, wav2vec 2.0) or of timm; a
            folder of `mmpt export`; or with `weights` the name of an architecture of timm.
        step: of the checkpoint; the newest whole one by default.
        untrained: fresh weights, those that a run without `init_from` began with, for comparison; reads no checkpoint.
        device: to compute on; an accelerator if there is one by default.
        weights: a .safetensors file of timm's architecture `run`.
        settings: of another library's model, in place of its own: `{"size": 384}`, `{"max_length": 1024}`; its table of
            positions is then interpolated, with a `WeightsWarning`.

    Raises:
        CheckpointError: not a run folder, no whole checkpoint, or none of this step; names those there are. Of another
            library: files that are missing or broken, and weights of other names or shapes, which are named.
        ConfigError: a model that no backbone can be; names the setting that is in the way.
    """
    if untrained and step is not None:
        raise ValueError("step and untrained exclude each other")
    device = torch.device(device) if device is not None else _default_device()
    if is_foreign(Path(run), Path(weights) if weights else None):
        return _foreign(Path(run), step, Path(weights) if weights else None, settings, device, untrained=untrained)
    run, step = run_and_step(Path(run), step)
    if settings:
        raise ConfigError(f"settings: are for models of other libraries, and {run} is a run of mmpt")
    recipe = load_recipe(run)
    modalities = build_modalities(recipe.streams, load_facts(run))
    backbone = build_backbone(recipe, modalities)
    saved = None if untrained else checkpoint.load(find_checkpoint(run, step), moments=False)
    if saved:
        load_weights(backbone, saved.weights, prefix="backbone.")
    backbone.requires_grad_(False).eval().to(device)
    is_task = (run / TASK).exists()  # its pool is in its head
    own = None if is_task else build_pool(recipe, backbone.trunk.width, saved.weights if saved else None)
    step = int(saved.state["step"]) if saved else None
    return Encoder(backbone, modalities, recipe, step, device, run, own=None if own is None else own.to(device))


def _foreign(
    path: Path,
    step: int | None,
    weights: Path | None,
    settings: Mapping[str, Any],
    device: torch.device,
    *,
    untrained: bool,
) -> "Encoder":
    if step is not None:
        raise CheckpointError(f"{path}: is no run of mmpt and has no checkpoint of step {step}; leave step out")
    donor = read_donor(path, weights, settings)
    for notice in donor.notices:
        warnings.warn(notice, WeightsWarning, stacklevel=3)
    backbone = build_backbone(donor.recipe, donor.modalities)
    if not untrained:
        load_weights(backbone, donor.weights, prefix="backbone.")
    backbone.requires_grad_(False).eval().to(device)
    return Encoder(
        backbone, donor.modalities, donor.recipe, None, device, path, None if untrained else origin_of(donor)
    )


def find_checkpoint(run: Path, step: int | None = None) -> Path:
    """The newest whole checkpoint of a run, or that of a step; raises CheckpointError naming those there are."""
    folder = run / "checkpoints"
    steps = checkpoint.steps_in(folder)
    if step is not None and step not in steps:
        raise CheckpointError(f"{run}: no checkpoint of step {step}; there are {', '.join(map(str, steps)) or 'none'}")
    found = checkpoint.latest(folder) if step is None else folder / f"step-{step:09d}"
    if found is None:
        which = f"none of the {len(steps)} checkpoints is whole" if steps else "there is no checkpoint yet"
        raise CheckpointError(f"{run}: {which}; run 'mmpt pretrain' with this run's recipe again, or load it untrained")
    return found


def weights_sha256(encoder: "Encoder", run: Path) -> str:
    """Of the file that an encoder's weights were read from; of several files, that of their hashes in order."""
    if encoder.origin is None:
        run, step = run_and_step(run, encoder.step)
        return sha256_of(find_checkpoint(run, step) / "model.safetensors")
    found = list(encoder.origin.sha256.values())
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


@dataclass(frozen=True, repr=False)
class Encoder:
    """Frozen encoders and trunk of a run; made by `mmpt.load`.

    Args:
        backbone: in eval mode; every call is free of randomness.
        modalities: by stream, how raw values are read.
        recipe: of the run.
        step: of the checkpoint; None means untrained, or a model of another library.
        device: where it computes.
        run: the folder it was loaded from; None where the encoder is no longer that of the run.
        origin: of a model of another library, what was loaded of it and what was left.
        own: the pool that the run was trained with, where its objective makes one vector of a row. A fitted task has
            one in its head.
    """

    backbone: Backbone
    modalities: Mapping[str, Modality]
    recipe: Recipe
    step: int | None
    device: torch.device
    run: Path | None = None
    origin: Origin | None = None
    own: Pool | None = None

    def __repr__(self) -> str:
        """In a line: a backbone has pages to say of itself."""
        state = "untrained" if self.step is None else f"step {self.step}"
        state = "of another library" if self.origin else state
        return f"Encoder({self.run}, {state}: {', '.join(self.modalities)}; width {self.width}, {self.device})"

    @property
    def width(self) -> int:
        """D: numbers of a feature vector."""
        return self.backbone.trunk.width

    @overload
    def encode(self, samples: Samples, *, pool: None = None, batch_size: int = 64) -> Features: ...

    @overload
    def encode(self, samples: Samples, *, pool: PoolName | Pooling, batch_size: int = 64) -> Float[Tensor, "B F"]: ...

    def encode(
        self,
        samples: Samples,
        *,
        pool: PoolName | Pooling | None = None,
        batch_size: int = 64,
    ) -> Features | Float[Tensor, "B F"]:
        """Features of samples, in their order; float32, on the host, without gradient.

        A sample is a dict with any of the run's streams, for example `{"text": "A wren.", "image": picture}`. Values:
        text str; image PIL image or uint8 array (H W or H W C); video PIL images or a uint8 array (T H W 3); sound
        (array of T, Hz); an ECG (T, C) or a dict of leads; a laboratory table a dict of items; for any stream a `Path`,
        for any but text its str, or the bytes of a file. A stream that a sample lacks takes no part in its features.
        Pictures are cut to their centre square. What is longer than the recipe lets it be is cut there, with a
        `CutWarning` that says how often.

        Args:
            samples: one dict; an iterable of them, read as it goes; or a collated `mmpt.tokens.Batch`.
            pool: None gives `Features`: `pooled` (B, D), and of every stream the latents (B, N, D), which of them are
                valid, the tokens' names and the stream's own mean. The others give one tensor and keep nothing else:
                `mean` over the observed tokens of all of a sample's streams, (B, D); where none is observed, as in an
                empty text, over the valid ones. `mean_std`: their standard deviation behind it, (B, 2 D), what
                `mmpt probe` takes. `class`: mean of the class tokens of its streams, (B, D). `own`: by the pool that
                the run was trained with (objective embedding), (B, D). Or a function of the streams' latents, such as a
                fitted task's.
            batch_size: samples that go through the trunk at once.

        Raises:
            ConfigError: a pool that there is not. DataError: an unknown field, a value that can't be read, or no token
                to pool; gives the sample's number, counted from 0.
        """
        pooling = self._pooling(pool) if isinstance(pool, str) else pool
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if isinstance(samples, Batch):
            numbers, parts = list(range(len(samples.uid))), [self._pooled(samples, pooling)]
        else:
            several = [samples] if isinstance(samples, Mapping) else samples
            numbers, parts = self._encode_all(cast("Iterable[Mapping[str, Any]]", several), pooling, batch_size)
        order = torch.tensor(numbers, dtype=torch.int64).argsort()
        if pooling is None:
            return join(parts, order, self.width)
        return torch.cat(parts)[order] if parts else torch.empty(0, self.width * (2 if pooling is mean_std_pool else 1))

    def impute(self, table: Any, *, batch_size: int = 256) -> Any:
        """The laboratory table with its missing cells filled by the run's own predictions.

        Args:
            table: a list of dicts, a pandas DataFrame, or a float array with NaN; see `mmpt.downstream.imputation`.
            batch_size: rows that go through the model at once.

        Raises:
            DataError: untrained or changed encoders, runs that predict no cells, and rows that can't be read.
        """
        from mmpt.downstream.imputation import impute  # the objective is loaded only here
        from mmpt.downstream.pretrained import load_pretrained

        if self.run is None or self.step is None:
            raise DataError("imputation needs a trained run as it was loaded, neither untrained nor with other columns")
        return impute(load_pretrained(self.run, step=self.step), table, batch_size=batch_size)

    def _encode_all(
        self, samples: Iterable[Mapping[str, Any]], pool: Pooling | None, batch_size: int
    ) -> tuple[list[int], list[Any]]:
        numbers: list[int] = []
        parts: list[Any] = []
        cut = 0
        ready = prepared(samples, self.modalities)
        while chunk := list(islice(ready, batch_size * SORTED_AT_ONCE)):
            cut += sum(sample.cut for sample in chunk)
            chunk.sort(key=lambda sample: sample.length)
            numbers += [sample.number for sample in chunk]
            for start in range(0, len(chunk), batch_size):
                part = chunk[start : start + batch_size]
                try:
                    parts.append(self._pooled(collated(part, self.modalities), pool))
                except LacksTokens as error:
                    raise DataError(f"sample {part[error.row].number}: has {error.lack}; leave it out") from error
        if cut:
            limits = ", ".join(f"{name} {modality.limit}" for name, modality in self.modalities.items())
            message = f"{cut} of {len(numbers)} samples were cut, being longer than the recipe lets them be ({limits})"
            warnings.warn(message, CutWarning, stacklevel=3)
        return numbers, parts

    @torch.no_grad()  # not inference_mode: a head may be trained on the features
    def _pooled(self, batch: Batch, pool: Pooling | None) -> Any:
        for name in batch.streams:
            if name not in self.modalities:
                raise DataError(unknown_stream(name, self.modalities))
        moved = batch.to(self.device)
        contents, tokens = moved.streams, self.backbone(moved)
        streams = {
            name: TokenLatents(own.x.float(), contents[name].valid, contents[name].observed, contents[name].place)
            for name, own in tokens.items()
        }
        if pool is not None:
            return pool(streams).cpu()
        on_host = {name: TokenLatents(*(tensor.cpu() for tensor in own)) for name, own in streams.items()}
        return describe(on_host, {name: self._names(name, batch.streams[name]) for name in streams})

    def _pooling(self, name: str) -> Pooling:
        if name == "own" and self.own is not None:
            return partial(pool_by, self.own)
        if name == "own":
            raise ConfigError(
                f"pool: {self.run or 'this encoder'} has none of its own, as runs of objective 'embedding' have; use "
                f"{', '.join(POOLS)}"
            )
        if name not in POOLS:
            raise ConfigError(unknown("a pool", [*POOLS, "own"], name))
        return POOLS[name]

    def _names(self, stream: str, content: Content) -> list[list[str]]:
        modality = self.modalities[stream]
        return [modality.token_names(content, row) for row in range(len(content.valid))]


def _default_device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
