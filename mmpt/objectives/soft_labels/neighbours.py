"""Soft labels that say which units lie near the true one (after ViLTA's for words, Wang et al. 2023)."""

import json
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import log_softmax

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives import Hidden
from mmpt.objectives.soft_labels import SoftLabels
from mmpt.objectives.targets import Target
from mmpt.objectives.targets.units import UnitsTarget
from mmpt.tokens import Batch, flatten, gather, score


class NeighbourLabels(SoftLabels):
    """exp(-d / temperature), normalised, of the squared distances d from the true unit's centroid to all.

    Distances are in units of the mean squared distance from a centroid to its nearest other one.

    Args:
        codebook: the file that the units come from.
        share: of the soft labels in the loss.
        temperature: above 0; towards 0 only the true unit is left.
    """

    table: Tensor  # V x V: logarithms, a row a true unit

    def __init__(
        self,
        name: str,
        modality: Modality,
        target: Target,
        *,
        codebook: Path,
        share: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(target, UnitsTarget):
            raise ConfigError("soft labels 'neighbours' needs target 'units': ids have no centroids; use frozen_run")
        if temperature <= 0:
            raise ConfigError(f"temperature: expected a number above 0, got {temperature}")
        self.name = name
        self.set_share(share)
        centroids, of = _read(codebook)
        wanted = modality.facts.values["units"][0]["codebook"]
        if of != wanted:
            raise ConfigError(f"codebook: {codebook} is codebook {of}, and stream '{name}' has units of {wanted}")
        apart = torch.cdist(centroids.double(), centroids.double()).square()
        nearest = apart.masked_fill(torch.eye(len(apart), dtype=torch.bool), torch.inf).amin(1).mean()
        table = log_softmax(-apart / (temperature * nearest), dim=1).float()
        self.register_buffer("table", table, persistent=False)

    @torch.no_grad()
    def forward(self, batch: Batch, hidden: Hidden, progress: float) -> Float[Tensor, "M V"]:
        """By the true unit."""
        scored = score(hidden.scored, hidden.hidden_count)
        units = cast("Tensor", batch.streams[self.name].units)[..., 0]
        return self.table[flatten(gather(units, scored.places), scored)]


def _read(file: Path) -> tuple[Float[Tensor, "V P"], str]:
    """Centroids, and the codebook's hash."""
    try:
        with safe_open(file, framework="pt") as opened:
            facts = json.loads((opened.metadata() or {})["codebook"])
            return opened.get_tensor("centroids"), facts["codebook"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"codebook: {file} can't be read as a codebook of 'mmpt units fit' ({error!r})") from error
