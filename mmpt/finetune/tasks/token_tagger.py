"""A class for every token of one stream: words of a text, frames of speech, patches of a picture."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmpt.config import chosen
from mmpt.data.unit_labels import TOLERANCE, token_labels
from mmpt.downstream.encoder import CutWarning, Encoder
from mmpt.encoders.sound import Sound
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError, DataError
from mmpt.finetune import classes
from mmpt.finetune.class_weights import ClassWeights, by_name, check_names, class_weights
from mmpt.finetune.classes import UNKNOWN, are_numbers, as_given, class_facts, class_number, name_of
from mmpt.finetune.metrics import Metric, values
from mmpt.finetune.objective import labels_of
from mmpt.finetune.stream_task import StreamTask
from mmpt.finetune.tasks import Inputs, Sample
from mmpt.finetune.words import Words, words_of
from mmpt.tokens import Batch, Content, Labels

if TYPE_CHECKING:
    from mmpt.finetune.examples import Examples

METRICS = {"accuracy": Metric(classes.accuracy), "macro_f1": Metric(classes.macro_f1)}
ASKED = 0  # any class: what stands where one is asked for


class TokenTagger(StreamTask):
    """A list of classes as a label, names or whole numbers; None or a number below 0 is not known and counts nothing.

    A text has a class for every word, which is read off the word's first piece (Devlin et al. 2018, section 5.3); words
    behind the longest piece that the encoder takes have no token, and none is said of them. Speech has a class for
    every frame of the encoder, or `rate` a second, of which each frame takes the one in force where it begins.
    Everything else has one for every observed token, in order. Pictures are not cropped or mirrored in training.

    Args:
        encoder, label, stream, inputs: see `StreamTask`.
        rate: labels a second, of sound; None: one a frame.
        words: what a word of a text is: of the tokenizer's pre-tokenization, where punctuation stands apart, or
            whatever `space` separates.
        class_weights: `balanced` makes every class count as much as every other, as scikit-learn does; or a weight by
            class, 1 where none is given.
    """

    metrics = METRICS
    augments = False
    checks = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        stream: str,
        inputs: Inputs = None,
        rate: float | None = None,
        words: Words = "tokenizer",
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(encoder, label=label, stream=stream, inputs=inputs)
        self.words: Words = chosen(Words, words, "words")
        self.class_weights: ClassWeights = by_name(class_weights)
        self.rate = rate
        if rate is not None and not isinstance(self.modality, Sound):
            raise ConfigError(f"rate: labels a second are of sound, and '{stream}' is a stream of {self.modality.kind}")
        if rate is not None and rate <= 0:
            raise ConfigError(f"rate: expected a positive number of labels a second, got {rate}")

    def given(self, examples: "Examples") -> Sequence[Any]:
        """As they are; a field that states a rate has to state the task's."""
        stated = examples.label_facts.get("rate")
        if stated is not None and (self.rate is None or abs(Fraction(stated) - Fraction(self.rate)) > 1e-6):
            ours = "one a token" if self.rate is None else f"{self.rate:g} a second"
            raise ConfigError(
                f"rate: field '{self.label}' of {examples.where} has {stated} labels a second, and the task expects "
                f"{ours}; set rate: {float(Fraction(stated)):g}"
            )
        return examples.labels

    def parse(self, label: Any) -> list[str | None]:
        """Names of classes by word or frame; None where the class is not known."""
        return _names(label)

    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """The classes, by name, and how many tokens each has."""
        counts = Counter(name for label in labels for name in self.parse(label) if name is not None)
        facts = class_facts(counts, self.label, "tokens")
        check_names(self.class_weights, facts["classes"])
        return facts | {"numbers": are_numbers(own for label in labels for own in label)}

    @property
    def size(self) -> int:
        """Classes."""
        return len(self.facts["classes"])

    def read(self, label: Any) -> np.ndarray:
        """The number of the class of each word or frame."""
        known = self.facts["classes"]
        numbers = [UNKNOWN if name is None else class_number(name, known) for name in self.parse(label)]
        return np.array(numbers, dtype=np.int32)

    def align(self, label: np.ndarray | None, sample: Sample) -> np.ndarray:
        """Of every observed token the class, or that none is known."""
        if self.stream not in sample.raw:
            if label is None:
                return np.zeros(0, np.int32)
            raise DataError(f"the sample has no '{self.stream}'")
        raw, read = sample.raw[self.stream], sample.read[self.stream]
        if isinstance(self.modality, Text):
            return self._of_words(self.modality, label, raw, len(read) - 2)
        count = int(self.modality.collate([[read]], None).observed.sum())
        if label is None:
            return np.full(count, ASKED, np.int32)
        if self.rate is not None and isinstance(self.modality, Sound):
            return self._at_rate(self.modality, self.rate, label, len(raw[0]), count)
        if isinstance(self.modality, Sound) and len(label) == self.modality.places(len(raw[0])):
            return label[:count]  # the whole recording's, of which the encoder takes the beginning
        if len(label) != count:
            raise DataError(f"{len(label)} classes for {count} tokens")
        return label

    def _of_words(self, modality: Text, label: np.ndarray | None, text: str, pieces: int) -> np.ndarray:
        found = words_of(modality.tokenizer, text, self.words)
        if label is not None and len(label) != len(found.first):
            told = ", ".join(found.words[:6]) + (", ..." if len(found.words) > 6 else "")
            raise DataError(
                f"{len(label)} classes for {len(found.first)} words as '{self.words}' divides them ({told or 'none'})"
            )
        own = np.full(len(found.first), ASKED, np.int32) if label is None else label
        there = found.first < pieces
        if label is None and not there.all():
            warnings.warn(f"{(~there).sum()} words stand behind the encoder's longest piece", CutWarning, stacklevel=2)
        aligned = np.full(pieces, UNKNOWN, np.int32)
        aligned[found.first[there]] = own[there]
        return aligned

    def _at_rate(self, modality: Sound, rate: float, label: np.ndarray, samples: int, count: int) -> np.ndarray:
        seconds, told = samples / modality.data_rate, len(label) / rate
        if abs(seconds - told) > TOLERANCE or not len(label):
            raise DataError(f"{len(label)} classes are of {told:.2f} s, and the recording has {seconds:.2f} s")
        exact = Fraction(rate).limit_denominator(10**6)
        return label[token_labels(0, exact, modality, count).clip(max=len(label) - 1)]

    def collate(self, labels: Sequence[np.ndarray | None], streams: Mapping[str, Content]) -> Labels:
        """Classes stand at observed tokens, in their order."""
        content = streams[self.stream]
        numbers = torch.full(content.valid.shape, UNKNOWN, dtype=torch.int64)
        for row, label in enumerate(labels):
            if label is not None:
                here = torch.nonzero(content.valid[row] & content.observed[row])[:, 0]
                numbers[row, here] = torch.from_numpy(label.astype(np.int64))
        known = numbers != UNKNOWN
        return Labels(torch.where(known, numbers, 0), known)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Nats, (B, N)."""
        weight = class_weights(self.class_weights, self.facts["classes"], self.facts["counts"], outputs.device)
        return cross_entropy(outputs.float().transpose(1, 2), labels_of(batch).values, weight, reduction="none")

    def scores(self, outputs: Tensor, batch: Batch) -> Sequence[np.ndarray]:
        """Probabilities (tokens, V) of those that are known or asked for."""
        every = outputs.float().softmax(2)
        return [own[known].numpy() for own, known in zip(every, labels_of(batch).known, strict=True)]

    def truth(self, batch: Batch) -> Sequence[np.ndarray]:
        """Their classes."""
        labels = labels_of(batch)
        return [own[known].numpy() for own, known in zip(labels.values, labels.known, strict=True)]

    def evidence(self, true: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> tuple[Int[np.ndarray, "B V V"]]:
        """How often each class was taken for each."""
        return (classes.confusions(true, [own.argmax(1) for own in scores], self.size),)

    def decode(self, scores: Sequence[np.ndarray]) -> list[list[str | int]]:
        """The most probable class of each word or frame; a number, where all labels were."""
        return [as_given(self.facts, own.argmax(1).tolist()) for own in scores]

    def confusion(self, evidence: tuple[np.ndarray, ...]) -> Int[np.ndarray, "V V"]:
        """Over all samples."""
        return evidence[0].sum(0)

    def trivial(self, true: Sequence[np.ndarray]) -> dict[str, float]:
        """The commonest class for every token."""
        guess = int(np.argmax(self.facts["counts"]))
        return values(self.metrics, (classes.confusions(true, [np.full_like(own, guess) for own in true], self.size),))


def _names(label: Any) -> list[str | None]:
    """By word or frame; None where the class is not known."""
    if not isinstance(label, (list, tuple, np.ndarray)) or (isinstance(label, np.ndarray) and label.ndim != 1):
        raise DataError(f"expected a list of classes, one a word or frame, got {label!r}")
    if isinstance(label, np.ndarray) and label.dtype.kind in "iu":
        return [str(number) if number >= 0 else None for number in label.tolist()]
    return [None if _unknown(own) else name_of(own) for own in label]


def _unknown(own: Any) -> bool:
    return own is None or (isinstance(own, (int, np.integer)) and int(own) < 0)
