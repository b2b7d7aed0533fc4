"""Soft labels of a frozen encoder that sees the same masked row (ViLTA, Wang et al. 2023, section 3.2)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Hidden
from mmpt.objectives.frozen import FrozenRun
from mmpt.objectives.latents import latents_of
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.soft_labels import SoftLabels
from mmpt.objectives.targets import Target
from mmpt.objectives.targets.token_ids import TokenIdsTarget
from mmpt.objectives.targets.units import UnitsTarget
from mmpt.tokens import Batch, score

ELSEWHERE = ("tokenizer", "units", "scores")  # facts that say where, or that are compared apart


class FrozenRunLabels(FrozenRun, SoftLabels):
    """What a finished run predicts of the same hidden tokens, from the same stream of the same row, masked alike.

    It shows them in its own run's way. Random numbers are those of the row, so that where the run's corruption has the
    recipe's settings, it sees what the trained model sees of this stream.

    Args:
        run: its folder; of a stream of the same name, with the same classes (tokenizer, or codebook).
        share: of the soft labels in the loss; the paper's is not known.
    """

    def __init__(self, name: str, modality: Modality, target: Target, *, run: Path, share: float = 0.5) -> None:
        super().__init__(run)
        self.name, self.modality, self.kind = name, modality, type(target)
        self.set_share(share)

    def accept(self, modalities: Mapping[str, Modality], model: MaskedModel) -> None:
        """A run of masked prediction that tells the same classes apart, in rows that are as long at least."""
        objective, theirs = model.objective, modalities.get(self.name)
        part = None
        if isinstance(objective, MaskedPrediction) and type(theirs) is type(self.modality):
            part = objective.part(self.name)
        if part is None or type(part.target) is not self.kind or part.predictor.layers:
            raise ConfigError(
                f"{self.run}: expected a run that predicts the classes of stream '{self.name}' from its last block"
            )
        own, theirs = self.modality, cast("Any", theirs)
        if _classes(own) != _classes(theirs) or not isinstance(part.target, TokenIdsTarget | UnitsTarget):
            what = "tokenizer" if isinstance(part.target, TokenIdsTarget) else "codebook"
            raise ConfigError(
                f"{self.run}: its stream '{self.name}' has another {what}, so that its classes are others; train it on "
                f"data of the same {what}"
            )
        longer = isinstance(part.target, TokenIdsTarget) and theirs.limit >= own.limit
        if not longer and replace(theirs, facts=own.facts) != own:
            raise ConfigError(
                f"{self.run}: its stream '{self.name}' does not cut samples into the same tokens, or into fewer; give "
                "it the recipe's settings"
            )

    @torch.no_grad()
    def forward(self, batch: Batch, hidden: Hidden, progress: float) -> Float[Tensor, "M V"]:
        """Of one stream alone, whatever others the row has."""
        part = cast("MaskedPrediction", self.model.objective).part(self.name)
        content = batch.streams[self.name]
        alone = batch._replace(streams={self.name: content})
        seen = latents_of(self.model.backbone, {self.name: part.corruption}, alone, {self.name: hidden}, progress)
        logits = part.predictor(seen.latents[self.name], content, score(hidden.scored, hidden.hidden_count))
        return log_softmax(logits.float(), dim=1)


def _classes(modality: Modality) -> tuple[Any, Any]:
    """What two data sets have to agree on."""
    values = modality.facts.values
    units = [(own["codebook"], own["clusters"]) for own in values.get("units") or ()]
    return {name: value for name, value in values.items() if name not in ELSEWHERE}, units
