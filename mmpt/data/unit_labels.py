"""The k-means label of every token: stored beside a data set, or computed from MFCCs as samples are read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer, Shaped

from mmpt.data.codebook import Codebook, load_codebook
from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.mfcc import mfcc_of
from mmpt.data.pieces import Piece, first_frame, observed_tokens, pieces_of
from mmpt.data.reader import Reader
from mmpt.encoders import Modality
from mmpt.encoders.sound import Sound
from mmpt.errors import ConfigError, DataError
from mmpt.tokens import Content

FIELD = "units"
TOLERANCE = Fraction(1, 10)  # seconds


class UnitLabels(ABC):
    """Labels of one stream.

    Args:
        facts: of the codebook, see `mmpt.data.codebook`.
        modality: whose tokens are labelled.
    """

    def __init__(self, facts: dict[str, Any], modality: Modality, where: str) -> None:
        self.facts, self.modality, self.where = facts, modality, where
        self.rate = None if facts["rate"] is None else Fraction(facts["rate"])
        made = facts.get("features") or facts.get("scorer")
        self.limit: int | None = made.get("limit") if isinstance(made, dict) else None
        self.counts: dict[int, list[int]] = {}  # tokens of each piece, of samples that have several
        if self.rate is not None and not isinstance(modality, Sound):
            raise ConfigError(f"{where}: {self.rate} labels a second, and this stream's tokens are not of sound")
        if self.rate is None and modality.augments:
            raise ConfigError(
                f"{where}: one label for each token of the whole picture, and the recipe crops or flips it; "
                "set crop_scale: [1.0, 1.0] and flip: false"
            )

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes with the labels."""

    @abstractmethod
    def stored(self, sample: int, value: Any) -> Shaped[np.ndarray, " T"]:
        """All labels of a sample of the data set, whose decoded field is `value`; raises DataError."""

    def tokens(self, sample: int, value: Any, piece: Piece, read: np.ndarray) -> Shaped[np.ndarray, " N"]:
        """The label of each observed token of a piece, in order.

        Args:
            sample: of the data set.
            value: its decoded field.
            piece: where it begins and stops, in the field's units.
            read: what the modality read of the piece.
        """
        labels = self.stored(sample, value)
        if self.rate is None or not isinstance(self.modality, Sound):
            return self._of_pieces(labels, sample, value, piece, read)
        seconds, given = Fraction(len(value[0])) / Fraction(self.modality.data_rate), len(labels) / self.rate
        if abs(seconds - given) > tolerance(self.rate) or not len(labels):
            raise DataError(f"{float(seconds):.2f} s with labels for {float(given):.2f} s; label the samples again")
        first = first_frame(piece[0], self.rate, self.modality)
        return labels[token_labels(first, self.rate, self.modality, len(read)).clip(max=len(labels) - 1)]

    def _of_pieces(
        self, labels: Shaped[np.ndarray, " T"], sample: int, value: Any, piece: Piece, read: np.ndarray
    ) -> Shaped[np.ndarray, " N"]:
        """Labels of the tokens of one piece stand behind those of the pieces before it."""
        pieces = pieces_of(self.modality, value)
        start, stop = piece[0], min(piece[1], pieces[-1][1])
        limit = self.modality.limit
        if self.limit not in (None, limit) and pieces[-1][1] > min(self.limit, limit):
            raise DataError(
                f"labels are of pieces of up to {self.limit}, and this recipe reads pieces of up to {limit}; "
                "let them be as long as those of the run that labelled"
            )
        if (start, stop) not in pieces:
            raise DataError(f"labels are of pieces, and {start} to {stop} is none of them; read the stream by itself")
        counts = [observed_tokens(self.modality, read)] if len(pieces) == 1 else self._counts(sample, value, pieces)
        if len(labels) != sum(counts):
            raise DataError(f"{len(labels)} labels for {sum(counts)} tokens; label the samples again")
        number = pieces.index((start, stop))
        return labels[sum(counts[:number]) : sum(counts[: number + 1])]

    def _counts(self, sample: int, value: Any, pieces: Sequence[Piece]) -> list[int]:
        """Observed tokens of each piece, for which all of them are read once."""
        if sample not in self.counts:
            read = (self.modality.read(value, *own, None) for own in pieces)
            self.counts[sample] = [observed_tokens(self.modality, own) for own in read]
        return self.counts[sample]


def tolerance(rate: Fraction) -> Fraction:
    """Seconds that a recording and its labels may differ by: 0.1, as fairseq has it, or two labels if that is more."""
    return max(TOLERANCE, 2 / rate)


def token_labels(first: int, rate: Fraction, modality: Sound, count: int) -> Integer[np.ndarray, " N"]:
    """Numbers of the labels in force where each token begins: first + floor(token * ratio), in whole numbers.

    `ratio` is labels a token, an exact fraction: 100 labels and 50 tokens a second give 2.
    """
    ratio = labels_a_token(rate, modality)
    return first + np.arange(count, dtype=np.int64) * ratio.numerator // ratio.denominator


def labels_a_token(rate: Fraction, modality: Sound) -> Fraction:
    """Exactly."""
    return rate * Fraction(modality.step) / Fraction(modality.rate)


class Beside:
    """A field of a data set that stands beside another, joined by key.

    Args:
        folder: the data set. field: of it.
        data: the other one.
    """

    def __init__(self, folder: Path, field: str, data: Manifest) -> None:
        manifest = load_manifest(folder)
        self.folder, self.field, self.facts = folder, field, manifest.fields[field].facts
        self.reader = Reader(manifest, [field])
        self.fingerprint = manifest.fingerprint()
        rows = {key: row for row, key in enumerate(manifest.column("key"))}
        self.rows = np.array([rows.get(key, -1) for key in data.column("key")], dtype=np.int64)

    def read(self, sample: int) -> np.ndarray:
        """The array of a sample of the other data set; raises DataError where there is none."""
        if self.rows[sample] < 0:
            raise DataError(f"{self.folder} has no labels of this sample; label the data set again")
        return self.reader.read(int(self.rows[sample]))[self.field]


class StoredLabels(UnitLabels):
    """Of a data set that `mmpt units label` wrote, found by key."""

    def __init__(self, folder: Path, data: Manifest, modality: Modality, where: str) -> None:
        self.beside, self.folder = Beside(folder, FIELD, data), folder
        super().__init__(self.beside.facts, modality, where)

    @property
    def fingerprint(self) -> str:
        """Of the labels' data set."""
        return self.beside.fingerprint

    def stored(self, sample: int, value: Any) -> Integer[np.ndarray, " T"]:
        """As written."""
        labels = self.beside.read(sample)
        clusters = self.facts["clusters"]
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and not 0 <= labels.max() < clusters):
            raise DataError(f"{self.folder}: expected a row of whole numbers below {clusters} as labels of this sample")
        return labels


class MfccLabels(UnitLabels):
    """Computed from the sound with an MFCC codebook: what stored ones would be."""

    def __init__(self, codebook: Codebook, modality: Modality, where: str) -> None:
        if codebook.features.get("type") != "mfcc":
            raise ConfigError(
                f"{where}: this codebook is of a trained layer, which reading can't compute; store its labels with "
                "'mmpt units label' and name their folder"
            )
        super().__init__(codebook.facts, modality, where)
        self.codebook = codebook

    @property
    def fingerprint(self) -> str:
        """The codebook's hash."""
        return self.codebook.hash

    def stored(self, sample: int, value: Any) -> Integer[np.ndarray, " T"]:
        """Of the whole recording."""
        return self.codebook.assign(mfcc_of(value))


class LabelSets:
    """The label sets of one stream side by side, in the order of the recipe."""

    def __init__(self, sets: Sequence[UnitLabels]) -> None:
        self.sets = sets

    @property
    def fingerprint(self) -> str:
        """Of all of them."""
        return " ".join(labels.fingerprint for labels in self.sets)

    def tokens(self, sample: int, value: Any, piece: Piece, read: np.ndarray) -> Shaped[np.ndarray, "N U"]:
        """As `UnitLabels.tokens` has them."""
        return np.stack([labels.tokens(sample, value, piece, read) for labels in self.sets], axis=1)

    def joined(self, content: Content, rows: list[np.ndarray | None]) -> Content:
        """Content whose observed tokens have these labels, in order; everything else has 0."""
        return with_units(content, rows, len(self.sets))


def unit_facts(place: Path) -> dict[str, Any]:
    """Facts of the labels in a folder, or of a codebook file."""
    if place.suffix == ".safetensors":
        return load_codebook(place).facts
    manifest = load_manifest(place)
    if FIELD not in manifest.fields:
        raise ConfigError(f"{place} has no field '{FIELD}'; make it with 'mmpt units label'")
    return manifest.fields[FIELD].facts


def unit_places(given: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    """One place or several."""
    return (given,) if isinstance(given, Path) else given


def open_labels(place: Path, stream: str, data: Manifest, modality: Modality, where: str) -> UnitLabels:
    """Stored labels of a folder, or those of an MFCC codebook; raises ConfigError where they are of another stream."""
    facts = unit_facts(place)
    if facts["stream"] != stream:
        raise ConfigError(f"{where}: {place} has units of stream '{facts['stream']}', not of '{stream}'")
    stored = place.suffix != ".safetensors"
    labels = StoredLabels(place, data, modality, where) if stored else MfccLabels(load_codebook(place), modality, where)
    if labels.rate is not None and isinstance(modality, Sound):
        _check_rate(labels.rate, modality, f"{where}: {place}")
    return labels


def _check_rate(rate: Fraction, modality: Sound, where: str) -> None:
    """A label for each token at least: one that stood for several would be predicted from its own neighbours."""
    if labels_a_token(rate, modality) < 1:
        tokens = float(Fraction(modality.rate) / modality.step)
        raise ConfigError(
            f"{where} has {float(rate):g} labels a second for {tokens:g} tokens a second, expected a label for each "
            f"token; take labels at {tokens:g} a second or more, or an encoder with {float(rate):g} tokens or fewer"
        )


def with_units(content: Content, rows: list[Integer[np.ndarray, "_ U"] | None], sets: int) -> Content:
    """Content whose observed tokens have these labels of `sets` label sets, in order; everything else has 0."""
    units = torch.zeros(*content.valid.shape, sets, dtype=torch.int64)
    for row, labels in enumerate(rows):
        if labels is not None:
            here = torch.nonzero(content.valid[row] & content.observed[row])[:, 0]
            units[row, here] = torch.from_numpy(labels.astype(np.int64))
    return content._replace(units=units)
