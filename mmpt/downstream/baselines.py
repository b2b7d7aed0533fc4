"""What a probe must beat: a classical description of the raw field."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

from mmpt.data.schema import Field

SIDE = 16
TERMS = 20_000
COEFFICIENTS = 13
POINTS = 128  # of a lead


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


class CepstralMeans(Baseline):
    """What a recording sounds like on the whole: mel-frequency cepstral coefficients (Davis and Mermelstein 1980)."""

    name = "MFCC mean and deviation"

    def read(self, value: tuple[np.ndarray, int] | None) -> np.ndarray:
        """Mean and standard deviation over time of each coefficient and of its change from frame to frame."""
        if value is None:
            return np.zeros(4 * COEFFICIENTS, np.float32)
        import torch
        from torchaudio.transforms import MFCC

        samples, rate = value
        window = int(rate * 0.025)
        settings = {"n_fft": window, "hop_length": int(rate * 0.01), "n_mels": 40, "center": False}
        wave = torch.from_numpy(samples if samples.ndim == 1 else samples.mean(axis=1))
        wave = torch.nn.functional.pad(wave, (0, max(0, 2 * window - len(wave))))
        frames = MFCC(rate, COEFFICIENTS, melkwargs=settings)(wave).numpy()
        both = np.concatenate([frames, np.gradient(frames, axis=1)])
        return np.concatenate([both.mean(axis=1), both.std(axis=1)]).astype(np.float32)

    def features(self, kept: list[np.ndarray], train: np.ndarray) -> np.ndarray:
        """As they are."""
        return np.stack(kept)


class RawSignal(Baseline):
    """The signal itself, every lead at a fixed number of points."""

    name = f"raw signal, {POINTS} points a lead"

    def __init__(self, leads: int) -> None:
        self.leads = leads

    def read(self, value: np.ndarray | None) -> np.ndarray:
        """Resampled by linear interpolation; 0 where a lead is not observed."""
        if value is None:
            return np.zeros(POINTS * self.leads, np.float32)
        places = np.linspace(0, len(value) - 1, POINTS)
        columns = [np.interp(places, np.arange(len(value)), lead) for lead in np.nan_to_num(value).T]
        return np.concatenate(columns).astype(np.float32)

    def features(self, kept: list[np.ndarray], train: np.ndarray) -> np.ndarray:
        """As they are."""
        return np.stack(kept)


class ImputedValues(Baseline):
    """Laboratory values, the missing ones at their column's mean; categories as indicators."""

    name = "values, mean-imputed"

    def __init__(self, columns: Sequence[Mapping[str, Any]]) -> None:
        self.columns = columns

    def read(self, value: np.ndarray | None) -> np.ndarray:
        """One number a column, NaN where there is none."""
        row = np.full(len(self.columns), np.nan)
        for column, cell in value if value is not None else ():
            row[int(column)] = cell
        return row

    def features(self, kept: list[np.ndarray], train: np.ndarray) -> np.ndarray:
        """Means are of the training rows."""
        table = np.stack(kept)
        return np.concatenate([self._one(number, table[:, number], train) for number in range(table.shape[1])], axis=1)

    def _one(self, number: int, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        if self.columns[number]["kind"] == "categorical":
            return (values[:, None] == np.arange(len(self.columns[number]["categories"]))).astype(np.float32)
        known = values[train][~np.isnan(values[train])]
        mean = known.mean() if len(known) else 0.0
        return np.where(np.isnan(values), mean, values)[:, None].astype(np.float32)


def baseline_of(field: Field) -> Baseline | None:
    """The classical description of a field; None where there is none."""
    if field.kind == "array" and "leads" in field.facts:
        return RawSignal(len(field.facts["leads"]))
    if field.kind == "array" and "columns" in field.facts:
        return ImputedValues(field.facts["columns"])
    kinds = {"text": TermWeights, "image": Pixels, "audio": CepstralMeans}
    return kinds[field.kind]() if field.kind in kinds else None
