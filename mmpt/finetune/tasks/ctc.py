"""Transcripts of speech, letter by letter (CTC, Graves et al. 2006)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import ctc_loss

from mmpt.config import chosen
from mmpt.downstream.encoder import Encoder
from mmpt.encoders.sound import Sound
from mmpt.errors import ConfigError, DataError
from mmpt.finetune.metrics import Metric, values
from mmpt.finetune.objective import labels_of
from mmpt.finetune.stream_task import StreamTask
from mmpt.finetune.tasks import Inputs, Sample
from mmpt.tokens import Batch, Content, Labels

if TYPE_CHECKING:
    from mmpt.finetune.examples import Examples

Letters = Literal["plain", "as_written"]
Decoding = Literal["greedy", "beam"]
Unfit = Literal["refuse", "leave_out"]

BLANK = 0
APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'"})


def _rate(wrong: int, counts: Int[np.ndarray, "B 4"]) -> float:
    """Edits a letter or word of the true transcripts."""
    edits, total = counts[:, wrong].sum(), counts[:, wrong + 1].sum()
    return float(edits / total) if total else float("nan")


METRICS = {
    "character_error_rate": Metric(lambda counts: _rate(0, counts), higher_is_better=False),
    "word_error_rate": Metric(lambda counts: _rate(2, counts), higher_is_better=False),
}


class CTC(StreamTask):
    """A text as a label; its letters are those of the training transcripts, and one more stands for none (the blank).

    The loss of a recording is divided by the letters of its transcript, as torch's `mean` has it. Error rates are edits
    over all recordings divided by their letters (white space among them) or words, so that long ones count more.

    Args:
        encoder, label, stream, inputs: see `StreamTask`; the stream has to be of sound.
        letters: `plain` makes transcripts small letters, digits and apostrophes with single spaces between words;
            `as_written` leaves them as they are.
        decoding: `greedy` takes the best letter of every frame; `beam` looks for the best text, which may come about
            in many ways, through torchaudio's decoder.
        beam_size: hypotheses that are followed.
        unfit: what becomes of samples with transcripts that are no text, have letters that training lacks, or are too
            long for the recording's frames: `refuse` names the first and ends, `leave_out` counts and names them.
    """

    metrics = METRICS
    checks = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        stream: str,
        inputs: Inputs = None,
        letters: Letters = "plain",
        decoding: Decoding = "greedy",
        beam_size: int = 50,
        unfit: Unfit = "refuse",
    ) -> None:
        super().__init__(encoder, label=label, stream=stream, inputs=inputs)
        if not isinstance(self.modality, Sound):
            raise ConfigError(f"stream: CTC transcribes sound, and '{stream}' is a stream of {self.modality.kind}")
        if beam_size < 1:
            raise ConfigError(f"beam_size: expected at least 1, got {beam_size}")
        self.beam_size = beam_size
        self.letters = chosen(Letters, letters, "letters")
        self.decoding = chosen(Decoding, decoding, "decoding")
        self.unfit = chosen(Unfit, unfit, "unfit")
        self.leaves_out = unfit == "leave_out"
        if decoding == "beam":
            _torchaudio_decoder()  # what is not installed is told of before anything is trained

    def given(self, examples: "Examples") -> Sequence[Any]:
        """As they are."""
        return examples.labels

    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """The letters in order, and the transcript that is there most often."""
        plain = [self._text(label) for label in labels]
        texts = [text for text in plain if text is not None]
        letters = sorted(set("".join(texts)))
        if len(set(texts)) < 2:
            only = f"is '{texts[0]}' in all" if texts else "has no letter in any of the"
            raise DataError(f"label '{self.label}' {only} {len(labels)} training samples")
        return {"letters": letters, "commonest": max(Counter(sorted(texts)).items(), key=lambda item: item[1])[0]}

    @property
    def size(self) -> int:
        """Letters and the blank."""
        return 1 + len(self.facts["letters"])

    def read(self, label: Any) -> np.ndarray:
        """The number of each letter, from 1."""
        text, numbers = self._text(label), {letter: n for n, letter in enumerate(self.facts["letters"], start=1)}
        if text is None:
            raise DataError(f"expected a text with a letter at least, got {label!r}")
        unknown = sorted(set(text) - set(numbers))
        if unknown:
            there = "".join(self.facts["letters"])
            raise DataError(f"letter '{unknown[0]}' is in no training transcript; those have '{there}'")
        return np.array([numbers[letter] for letter in text], dtype=np.int32)

    def _text(self, label: Any) -> str | None:
        """None for what is no transcript."""
        if not isinstance(label, str):
            return None
        text = label
        if self.letters == "plain":
            text = label.lower().translate(APOSTROPHES)
            text = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text)
        return " ".join(text.split()) or None

    def align(self, label: np.ndarray | None, sample: Sample) -> np.ndarray | None:
        """As it is, where the recording has frames enough: one a letter, and a blank between two that are alike."""
        if label is None:
            return None
        if self.stream not in sample.raw:
            raise DataError(f"the sample has no '{self.stream}'")
        samples, limit = len(sample.raw[self.stream][0]), self.modality.limit
        if samples > limit:
            raise DataError(
                f"a recording of {samples} samples, and the encoder takes {limit}, so that the transcript would be of "
                "more than is heard; cut recording and transcript"
            )
        frames, needed = len(sample.read[self.stream]), len(label) + sum(a == b for a, b in pairwise(label.tolist()))
        if needed > frames:
            raise DataError(
                f"a transcript of {len(label)} letters takes {needed} frames, and the recording has {frames}; leave "
                "the sample out, or use an encoder with more frames a second"
            )
        return label

    def collate(self, labels: Sequence[np.ndarray | None], streams: Mapping[str, Content]) -> Labels:
        """Letters (B, L), blanks behind the last."""
        longest = max([1, *(len(label) for label in labels if label is not None)])
        numbers = np.full((len(labels), longest), BLANK, dtype=np.int64)
        for row, label in enumerate(labels):
            if label is not None:
                numbers[row, : len(label)] = label
        return Labels(torch.from_numpy(numbers), torch.tensor([label is not None for label in labels]))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Nats a letter, (B)."""
        letters, heard = labels_of(batch).values, batch.streams[self.stream].valid.sum(1)
        lengths = (letters != BLANK).sum(1)
        heard = torch.where(labels_of(batch).known, heard, 1)  # an absent recording has no frame, and no label either
        each = ctc_loss(
            outputs.float().log_softmax(2).transpose(0, 1), letters, heard, lengths, BLANK, reduction="none"
        )
        return each / lengths.clamp(min=1)

    def scores(self, outputs: Tensor, batch: Batch) -> Sequence[np.ndarray]:
        """Log-probabilities (frames, V) of blank and letters."""
        every, valid = outputs.float().log_softmax(2), batch.streams[self.stream].valid
        return [own[there].numpy() for own, there in zip(every, valid, strict=True)]

    def truth(self, batch: Batch) -> Sequence[np.ndarray]:
        """The letters' numbers."""
        return [own[own != BLANK].numpy() for own in labels_of(batch).values]

    def evidence(self, true: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> tuple[Int[np.ndarray, "B 4"]]:
        """Edits and length, in letters and in words."""
        return (edits([self._spelt(own) for own in true], self.decode(scores)),)

    def decode(self, scores: Sequence[np.ndarray]) -> list[str]:
        """The transcripts."""
        if self.decoding == "beam":
            return self._by_beam(scores)
        return [self._spelt([number for number, _ in groupby(own.argmax(1).tolist())]) for own in scores]

    def _spelt(self, numbers: Sequence[int] | np.ndarray) -> str:
        text = "".join(self.facts["letters"][number - 1] for number in numbers if number != BLANK)
        return " ".join(text.split())

    def _by_beam(self, scores: Sequence[np.ndarray]) -> list[str]:
        """One recording after the other: padding would be decoded, too."""
        names = ["<blank>", *self.facts["letters"]]
        decoder = _torchaudio_decoder()(
            lexicon=None, tokens=names, lm=None, nbest=1, beam_size=self.beam_size, blank_token=names[BLANK],
            sil_token=names[BLANK], unk_word="<unknown>", log_add=True,
        )  # fmt: skip
        best = (decoder(torch.from_numpy(own).unsqueeze(0))[0] if len(own) else [] for own in scores)
        return [self._spelt(own[0].tokens.tolist() if own else []) for own in best]

    def confusion(self, evidence: tuple[np.ndarray, ...]) -> None:
        """There are no classes."""

    def trivial(self, true: Sequence[np.ndarray]) -> dict[str, float]:
        """The commonest training transcript for every recording."""
        texts = [self._spelt(own) for own in true]
        return values(self.metrics, (edits(texts, [self.facts["commonest"]] * len(texts)),))


def edits(true: Sequence[str], said: Sequence[str]) -> Int[np.ndarray, "B 4"]:
    """Levenshtein distance in letters and letters of the true text, the same in words."""
    from torchaudio.functional import edit_distance  # slow to import

    rows = [
        (edit_distance(own, heard), len(own), edit_distance(own.split(), heard.split()), len(own.split()))
        for own, heard in zip(true, said, strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def _torchaudio_decoder() -> Any:
    """Raises ConfigError where it is not installed."""
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            "decoding: torchaudio's beam search needs flashlight-text; install it (pip install flashlight-text), or "
            "use greedy"
        ) from error
    return ctc_decoder
