"""`mmpt units score`: how sure a run is of every token's class, as a data set of its own, joined by key."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console

from mmpt.data.manifest import Manifest, load_manifest, sha256_of
from mmpt.data.pieces import cut_facts, token_rate
from mmpt.data.schema import declare
from mmpt.data.token_scores import FIELD
from mmpt.data.writer import ShardWriter
from mmpt.downstream.encoder import find_checkpoint
from mmpt.downstream.pretrained import load_pretrained
from mmpt.downstream.units.corpus import Frames, rows_with
from mmpt.downstream.units.features import FrameFeatures, alone
from mmpt.downstream.units.pieces import frames_of
from mmpt.downstream.units.ranks import written_once
from mmpt.errors import DataError
from mmpt.objectives.latents import all_places, of_complete
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.targets.token_ids import TokenIdsTarget
from mmpt.objectives.targets.units import UnitsTarget
from mmpt.tokens import Content


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
        self.rate = token_rate(self.modality)
        weights = sha256_of(found / "model.safetensors")[:16]
        self.settings = {"type": "confidence", "weights": weights, **cut_facts(self.modality)}

    def of(self, values: Sequence[Any]) -> list[Float[np.ndarray, "_ 1"]]:
        """(N, 1) of each; one that is longer than the run reads at once, in the pieces that training cuts it into."""
        return frames_of(self.modality, values, self._of_pieces)

    @torch.no_grad()
    def _of_pieces(self, content: Content) -> Float[torch.Tensor, "B N 1"]:
        latents = of_complete(self.pretrained.model.backbone, alone(self.stream, content))[self.stream]
        chances = self.part.predictor(latents, content, all_places(content)).float().softmax(dim=1)
        return chances.amax(dim=1).view(*content.valid.shape, 1)


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
    with written_once(frames.ranks, ShardWriter(out, {FIELD: declare(FIELD, "npy", **facts)})) as mine:
        for row, own in frames:
            if mine is not None:
                marks = {"__key__": str(keys[row]), "__group__": str(groups[row]), "__split__": str(splits[row])}
                mine.write({FIELD: own[:, 0].astype(np.float32), **marks})
    return load_manifest(out)
