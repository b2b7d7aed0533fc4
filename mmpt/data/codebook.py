"""A codebook: k-means centroids of frame features, and all that whoever uses its labels has to agree on.

One safetensors file: `centroids` (V, P) float32 and, as text, what they are centroids of. Its hash goes wherever its
labels go.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmpt.errors import DataError

AT_ONCE = 65_536  # frames whose distances are held in memory


@dataclass(frozen=True)
class Codebook:
    """Centroids of features.

    Args:
        centroids: (V, P) float32.
        rate: labels a second; None: a label for each observed token of the modality.
        stream: the field that is labelled.
        features: what the centroids are of, as settings: `{"type": "mfcc", ...}` or `{"type": "layer", ...}`.
        chosen: how the layer was chosen, where it was: scores of all layers, and against which labels.
    """

    centroids: Float[np.ndarray, "V P"]
    rate: Fraction | None
    stream: str
    features: Mapping[str, Any]
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def clusters(self) -> int:
        """V."""
        return len(self.centroids)

    @property
    def hash(self) -> str:
        """Of centroids and description: the same where the labels are."""
        digest = hashlib.sha256(np.ascontiguousarray(self.centroids, "<f4").tobytes())
        digest.update(json.dumps(self._described(), sort_keys=True).encode())
        return digest.hexdigest()[:16]

    @property
    def facts(self) -> dict[str, Any]:
        """What travels with labels."""
        chosen = {"chosen": dict(self.chosen)} if self.chosen else {}
        return {"codebook": self.hash, "clusters": self.clusters, **self._described(), **chosen}

    def _described(self) -> dict[str, Any]:
        rate = None if self.rate is None else str(self.rate)
        return {"rate": rate, "stream": self.stream, "features": dict(self.features)}

    def assign(self, features: Float[np.ndarray, "T P"]) -> Int[np.ndarray, " T"]:
        """The nearest centroid of every frame; of equally near ones the first."""
        if features.shape[1] != self.centroids.shape[1]:
            raise DataError(f"features have {features.shape[1]} numbers, the codebook's {self.centroids.shape[1]}")
        labels = np.empty(len(features), dtype=np.int32)
        lengths = (self.centroids.astype(np.float64) ** 2).sum(1)
        for start in range(0, len(features), AT_ONCE):
            own = features[start : start + AT_ONCE].astype(np.float64)
            labels[start : start + AT_ONCE] = (lengths - 2 * own @ self.centroids.T.astype(np.float64)).argmin(1)
        return labels


def save_codebook(codebook: Codebook, file: Path) -> None:
    """Whole or not at all."""
    staged = file.with_name(f".{file.name}.staged")
    file.parent.mkdir(parents=True, exist_ok=True)
    centroids = np.ascontiguousarray(codebook.centroids, dtype=np.float32)
    save_file({"centroids": centroids}, staged, metadata={"codebook": json.dumps(codebook.facts)})
    staged.rename(file)


def load_codebook(file: Path) -> Codebook:
    """Raises DataError for what is no codebook, or is one that was changed."""
    try:
        with safe_open(file, framework="np") as opened:
            facts = json.loads((opened.metadata() or {})["codebook"])
            centroids = opened.get_tensor("centroids")
        rate = None if facts["rate"] is None else Fraction(facts["rate"])
        codebook = Codebook(centroids, rate, facts["stream"], facts["features"], facts.get("chosen", {}))
        expected = facts["codebook"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: no codebook ({error}); make one with 'mmpt units fit'") from error
    if codebook.hash != expected:
        raise DataError(f"{file}: centroids and description differ from what was saved; fit the codebook again")
    return codebook
