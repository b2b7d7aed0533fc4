"""What a probe must beat: a classical description of the raw field, by kind of field."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

SIDE = 16
TERMS = 20_000


class Baseline(ABC):
    """Decoded values of one field -> features that nothing was pretrained for."""

    name: str

    @abstractmethod
    def read(self, value: Any | None) -> Any:
        """What to keep of a sample's value; None where it has none."""

    @abstractmethod
    def features(self, kept: list[Any], train: np.ndarray) -> Any:
        """One row a sample; whatever is fitted is fitted on the rows of `train`."""


class TermWeights(Baseline):
    """Frequencies of words, weighted by rarity (Salton and Buckley 1988)."""

    name = "TF-IDF"

    def read(self, value: str | None) -> str:
        """The text."""
        return value or ""

    def features(self, kept: list[str], train: np.ndarray) -> Any:
        """A sparse matrix over the commonest words and signs of the training texts."""
        weights = TfidfVectorizer(sublinear_tf=True, max_features=TERMS, token_pattern=r"\w+|[^\w\s]")
        texts = [kept[row] for row in train]
        # without a single word there would be no column at all
        return weights.fit(texts if any(text.strip() for text in texts) else ["-"]).transform(kept)


class Pixels(Baseline):
    """A tiny picture."""

    name = f"{SIDE} x {SIDE} pixels"

    def read(self, value: Image.Image | None) -> np.ndarray:
        """Colours of the centre square, shrunk; black where there is no picture."""
        if value is None:
            return np.zeros(SIDE * SIDE * 3, np.uint8)
        side = min(value.size)
        left, top = (value.width - side) / 2, (value.height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(value.resize((SIDE, SIDE), Image.Resampling.BOX, box=box), dtype=np.uint8).ravel()

    def features(self, kept: list[np.ndarray], train: np.ndarray) -> np.ndarray:
        """Values in [0, 1]."""
        return np.stack(kept).astype(np.float32) / 255


BASELINES: dict[str, Baseline] = {"text": TermWeights(), "image": Pixels()}
