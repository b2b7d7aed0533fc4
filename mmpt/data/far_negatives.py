"""Pairs that don't belong together: a sample's text gives way to one that is unlike it (C-MELT's N3S)."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mmpt import randomness
from mmpt.data.manifest import Manifest
from mmpt.data.reader import Reader
from mmpt.errors import ConfigError, DataError

MOST = 200_000  # texts: all are compared with all
CHUNK = 128
ALIKE = 1 - 1e-6  # cosine from which two texts say the same


@dataclass(frozen=True, kw_only=True)
class NegativesSettings:
    """A source's false pairs.

    Args:
        stream: the text that is replaced.
        share: of the samples, drawn anew in every epoch.
        candidates: that many texts, the least similar ones by TF-IDF cosine, are drawn from; the paper's 64 come from a
            language model's embeddings.
    """

    stream: str
    share: float = 0.5
    candidates: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share: expected above 0 and below 1, got {self.share}")
        if self.candidates < 1:
            raise ValueError(f"candidates: expected at least 1, got {self.candidates}")


class FarNegatives:
    """Which sample's text stands in for a sample's own, as its random key says.

    Args:
        samples: of the split. seed: orders what is equally far.
        where: for messages.
    """

    def __init__(
        self, settings: NegativesSettings, manifest: Manifest, samples: np.ndarray, seed: int, where: str
    ) -> None:
        self.stream, self.share = settings.stream, settings.share
        if manifest.fields[settings.stream].kind != "text":
            kind = manifest.fields[settings.stream].kind
            raise ConfigError(f"{where}.stream: unlike texts can be found, and '{settings.stream}' is {kind}")
        self.reader = Reader(manifest, [settings.stream])
        self.samples = samples[manifest.lengths(settings.stream)[samples] > 0]
        if len(self.samples) > MOST:
            raise ConfigError(
                f"{where}: {len(self.samples):,} texts are too many to compare with each other; {MOST:,} are the most"
            )
        texts = self._readable()
        self.samples = np.array(list(texts), dtype=np.int64)
        self.far = self.samples[_farthest(list(texts.values()), settings.candidates, seed, where)]
        self.place = {int(sample): place for place, sample in enumerate(self.samples)}

    def _readable(self) -> dict[int, str]:
        """Texts by sample; one that can't be read stands in for none, and is told of when its own row is read."""
        texts = {}
        for sample in self.samples.tolist():
            with suppress(DataError):
                texts[sample] = self.text(sample)
        return texts

    def instead_of(self, sample: int, draw: int) -> int | None:
        """The sample whose text is read in this row; None: its own."""
        place = self.place.get(sample)
        if place is None or randomness.number(draw, "negative") >= self.share:
            return None
        far = self.far[place]
        return int(far[int(randomness.number(draw, "which negative") * len(far))])

    def text(self, sample: int) -> str:
        """As it stands in the shard; raises DataError that names the sample."""
        return self.reader.read(sample)[self.stream]


def _farthest(texts: list[str], candidates: int, seed: int, where: str) -> Int[np.ndarray, "texts k"]:
    """Places of the k texts least like each one, never of one that says the same."""
    from scipy.sparse import csr_matrix  # slow to import: only where a source asks for negatives
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        vectors = csr_matrix(TfidfVectorizer().fit_transform(texts))
    except ValueError as error:
        raise ConfigError(f"{where}: no text has a word to compare ({error})") from error
    number, far, there = np.unique(texts, return_inverse=True)[1], [], []
    for start in range(0, len(texts), CHUNK):
        like = (vectors[start : start + CHUNK] @ vectors.T).toarray()
        like[number[start : start + CHUNK, None] == number] = 1.0  # itself, and equal texts without a word
        turn = randomness.permutation(len(texts), seed, "far negatives", start).numpy()
        far.append(turn[np.argsort(like[:, turn], axis=1, kind="stable")[:, :candidates]])
        there.append((like < ALIKE).sum(1))
    fewest = int(np.concatenate(there).min()) if there else 0
    if not fewest:
        raise ConfigError(f"{where}: some text has no other that differs from it; leave `negatives` out")
    return np.concatenate(far)[:, :fewest]
