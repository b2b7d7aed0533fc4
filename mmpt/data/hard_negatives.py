"""Samples that are hard to tell from a sample and are not it: a file of 'mmpt mine', and what a row takes of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmpt import randomness
from mmpt.data.manifest import Manifest
from mmpt.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class HardSettings:
    """A source's hard negatives.

    Args:
        file: of 'mmpt mine'.
        count: rows that are read along with each row, drawn anew in every epoch from those that were mined for it.
    """

    file: Path
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count: expected at least 1, got {self.count}")


class Mined(NamedTuple):
    """What mining found, for every sample of a data set, in the manifest's order."""

    negatives: np.ndarray  # int64 (samples, K): numbers of samples, the hardest first; -1 where there are no more
    kept: np.ndarray  # bool (samples): not where the pair itself looks wrong, or the sample was not looked at
    facts: dict[str, Any]  # how it was done, and of which data


def save_mined(mined: Mined, file: Path) -> None:
    """Whole or not at all."""
    staged = file.with_name(f".{file.name}.staged")
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"negatives": mined.negatives, "kept": mined.kept.astype(np.uint8)}
    save_file(tensors, staged, metadata={"mined": json.dumps(mined.facts)})
    staged.rename(file)


def load_mined(file: Path, manifest: Manifest) -> Mined:
    """Raises DataError for what is no such file, or is of other data."""
    try:
        with safe_open(file, framework="np") as opened:
            facts = json.loads((opened.metadata() or {})["mined"])
            mined = Mined(opened.get_tensor("negatives"), opened.get_tensor("kept").astype(bool), facts)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{file}: no hard negatives ({error}); find some with 'mmpt mine'") from error
    if facts.get("data") != manifest.fingerprint():
        raise DataError(f"{file}: was mined of other data than {manifest.folder}; mine again")
    return mined


class HardNegatives:
    """Which samples are read along with a sample.

    Args:
        where: for messages.
    """

    def __init__(self, settings: HardSettings, manifest: Manifest, where: str) -> None:
        try:
            self.mined = load_mined(settings.file, manifest)
        except DataError as error:
            raise ConfigError(f"{where}.file: {error}") from error
        self.count = settings.count
        self.fingerprint = self.mined.facts["hash"]

    def kept(self, samples: np.ndarray) -> np.ndarray:
        """Those whose pair passed the filter."""
        return samples[self.mined.kept[samples]]

    def along(self, sample: int, draw: int) -> list[int]:
        """`count` different ones of those that were mined for it, or all where there are fewer."""
        own = self.mined.negatives[sample]
        own = own[own >= 0]
        lots = [randomness.number(draw, f"hard negative {place}") for place in range(len(own))]
        return own[np.argsort(lots, kind="stable")[: self.count]].tolist()
