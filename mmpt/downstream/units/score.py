"""`mmpt units score`: how sure a run is of every token's class, as a data set of its own, joined by key."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console

from mmpt.data.manifest import Manifest, load_manifest, sha256_of
from mmpt.data.schema import declare
from mmpt.data.token_scores import FIELD
from mmpt.data.writer import ShardWriter
from mmpt.downstream.encoder import find_checkpoint
from mmpt.downstream.pretrained import load_pretrained
from mmpt.downstream.units.corpus import Frames, rows_with
from mmpt.downstream.units.features import FrameFeatures
from mmpt.encoders.sound import Sound
from mmpt.errors import DataError
from mmpt.objectives.latents import all_places, of_complete
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.targets.token_ids import TokenIdsTarget
from mmpt.objectives.targets.units import UnitsTarget
from mmpt.tokens import Batch


class Confidence(FrameFeatures):
    """The largest class probability of every observed token, nothing hidden: one number a frame.

    Args:
        run: whose stream predicts classes.
        stream: of the run.
        step: of the checkpoint; the newest by default.
    """

    def __init__(self, run: Path, stream: str, *, step: int | None = None) -> None:
        found = find_checkpoint(run, step)
        self.pretrained = load_pretrained(run, step=step)
        objective, modalities = self.pretrained.model.objective, self.pretrained.modalities
        if stream not in modalities:
            raise DataError(f"{run}: no stream '{stream}'; it has {', '.join(modalities)}")
        part = objective.part(stream) if isinstance(objective, MaskedPrediction) else None
        if part is None or not isinstance(part.target, UnitsTarget | TokenIdsTarget):
            raise DataError(f"{run}: a score is the probability of a class, and its stream '{stream}' predicts none")
        if len(part.target.parts) > 1 or part.predictor.layers:
            raise DataError(f"{run}: a score is of one label set at the trunk's output, and '{stream}' has others")
        self.stream, self.part, self.modality = stream, part, modalities[stream]
        own = self.modality
        self.rate = Fraction(own.rate) / own.step if isinstance(own, Sound) else None
        self.settings = {"type": "confidence", "weights": sha256_of(found / "model.safetensors")[:16]}

    @torch.no_grad()
    def of(self, values: Sequence[Any]) -> list[Float[np.ndarray, "_ 1"]]:
        """(N, 1) of each."""
        read = [self.modality.read(value, 0, self.modality.limit, None) for value in values]
        content = self.modality.collate([[one] for one in read], None)
        numbers = torch.arange(len(read))
        batch = Batch({self.stream: content}, numbers, torch.zeros_like(numbers), "scores", 0)
        latents = of_complete(self.pretrained.model.backbone, batch)[self.stream]
        chances = self.part.predictor(latents, content, all_places(content)).float().softmax(dim=1)
        sure = chances.amax(dim=1).view(content.valid.shape)
        kept = content.valid & content.observed
        return [own[mine].unsqueeze(1).numpy() for own, mine in zip(sure, kept, strict=True)]


def score_data(
    confidence: Confidence, data: str | Path, out: str | Path, *, console: Console | None = None
) -> Manifest:
    """Write `out`: for every sample that has the stream its scores, with the sample's key, group and split."""
    manifest = load_manifest(data)
    rows = rows_with(manifest, confidence.stream, None)
    keys, groups, splits = (manifest.column(name) for name in ("key", "group", "split"))
    rate = None if confidence.rate is None else str(confidence.rate)
    facts = {"stream": confidence.stream, "rate": rate, "scorer": dict(confidence.settings)}
    frames = Frames(confidence, manifest, rows, console=console, title="scores")
    with ShardWriter(out, {FIELD: declare(FIELD, "npy", **facts)}) as writer:
        for row, own in frames:
            marks = {"__key__": str(keys[row]), "__group__": str(groups[row]), "__split__": str(splits[row])}
            writer.write({FIELD: own[:, 0].astype(np.float32), **marks})
    if writer.manifest is None:
        raise DataError(f"{out}: the scores were not finished")
    return writer.manifest
