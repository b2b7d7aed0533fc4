"""A scorer's confidence in every token, stored beside a data set as unit labels are."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.unit_labels import Beside, UnitLabels
from mmpt.encoders import Modality
from mmpt.errors import ConfigError, DataError
from mmpt.tokens import Content

FIELD = "scores"


class StoredScores(UnitLabels):
    """Of a data set with a field `scores`, found by key."""

    def __init__(self, folder: Path, stream: str, data: Manifest, modality: Modality, where: str) -> None:
        field = load_manifest(folder).fields.get(FIELD)
        if field is None:
            raise ConfigError(f"{where}: {folder} has no field '{FIELD}'; make it with 'mmpt units score'")
        if field.facts.get("stream") != stream:
            theirs = field.facts.get("stream")
            raise ConfigError(f"{where}: {folder} has scores of stream '{theirs}', not of '{stream}'")
        self.beside = Beside(folder, FIELD, data)
        super().__init__(self.beside.facts, modality, where)

    @property
    def fingerprint(self) -> str:
        """Of the scores' data set."""
        return self.beside.fingerprint

    def stored(self, sample: int, value: Any) -> Float[np.ndarray, " T"]:
        """As written."""
        scores = self.beside.read(sample)
        if scores.ndim != 1 or scores.dtype.kind != "f" or not np.isfinite(scores).all() or (scores < 0).any():
            raise DataError(f"{self.beside.folder}: expected finite numbers, 0 or more, as scores of this sample")
        return scores

    def joined(self, content: Content, rows: list[np.ndarray | None]) -> Content:
        """Content whose observed tokens have these scores, in order; everything else has 0."""
        scores = torch.zeros(content.valid.shape)
        for row, own in enumerate(rows):
            if own is not None:
                here = torch.nonzero(content.valid[row] & content.observed[row])[:, 0]
                scores[row, here] = torch.from_numpy(own.astype(np.float32))
        return content._replace(scores=scores)
