"""Texts that stand alone or beside something else: the tokenizer of a data set, its members, and their statistics."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tokenizers import Tokenizer

from mmpt.data.building import Building, nothing_good
from mmpt.data.encode import Member, encode
from mmpt.data.schema import Field, declare
from mmpt.data.shard import Counts, Part
from mmpt.data.split import Shares, split_of
from mmpt.data.tokenizer import FOLDER, adopt_tokenizer, kept_tokenizer, token_ids, tokenizer_facts, train_tokenizer
from mmpt.errors import DataError

TEXT = declare("text", "txt")
LABELS = declare("labels", "json")


@runtime_checkable
class Texts(Protocol):
    """Texts of the training split; after a pass it knows how many were good, in training, and bad."""

    good: int
    training: int
    bad: Part

    def __iter__(self) -> Iterator[str]: ...


class TrainingTexts:
    """The texts of the training split, one by one; remembers how many were good.

    Args:
        pairs: makes (text, group) of every sample anew for each pass; what is no text, or blank, is passed over.
        shares: of the splits.
        what: the texts, for people.
        lack: the sentence where there is none.
    """

    def __init__(self, pairs: Callable[[], Iterable[tuple[Any, str]]], shares: Shares, what: str, lack: str) -> None:
        self.bad, self.good, self.training = Part(), 0, 0
        self._pairs, self._shares, self._what, self._lack = pairs, shares, what, lack

    def __iter__(self) -> Iterator[str]:
        for text, group in self._pairs():
            if isinstance(text, str) and text.strip():
                self.good += 1
                if split_of(group, self._shares) == "train":
                    self.training += 1
                    yield text
        if not self.good:
            self.bad.reject(self._what, self._lack)


def tokenizer_folder(
    building: Building, texts: Texts, tokenizer: str | Path | None, *, vocabulary: int, algorithm: str
) -> Path:
    """The data set's tokenizer: there from an earlier try, copied, or trained; a build that fails here leaves nothing.

    Args:
        building: the data set's folder.
        texts: what to train on.
        tokenizer: a folder to copy, or None to train.
        vocabulary: of a trained one.
        algorithm: of a trained one.
    """
    folder = building.folder / FOLDER
    if folder.exists():
        return folder
    try:
        if tokenizer:
            adopt_tokenizer(Path(tokenizer), folder)
        else:
            _train(texts, folder, vocabulary, algorithm)
    except DataError:
        building.discard()
        raise
    return folder


def _train(texts: Texts, folder: Path, vocabulary: int, algorithm: str) -> None:
    train_tokenizer(texts, folder, vocabulary=vocabulary, algorithm=algorithm)
    if not texts.good:
        raise DataError(nothing_good([texts.bad]))
    if not texts.training:
        raise DataError(
            f"no group of the {texts.good} good texts fell into the training split, which trains the tokenizer"
        )


def text_fields(folder: Path | None) -> dict[str, Field]:
    """The schema of `text`; empty without a tokenizer."""
    return {"text": Field("text", TEXT.kind, TEXT.members, tokenizer_facts(folder))} if folder else {}


def text_members(text: Any, folder: Path | None) -> tuple[dict[str, Member], dict[str, Counts]]:
    """The member and the counts of its tokens; empty without a text or a tokenizer."""
    if folder is None or text in (None, ""):
        return {}, {}
    tokenizer = kept_tokenizer(folder)
    return {"text": encode(TEXT, text, tokenizer)}, token_sums(tokenizer, text)


def token_sums(tokenizer: Tokenizer, text: str) -> dict[str, Counts]:
    """How often an id occurs, of those that do; the last one too, so that all sums are as long as the vocabulary."""
    return {"tokens": {tokenizer.get_vocab_size() - 1: 0, **Counter(token_ids(tokenizer, text))}}


def token_statistics(parts: Sequence[Part]) -> Mapping[str, Any]:
    """`token_counts`: occurrences of every id in the training split."""
    total = Part()
    for part in parts:
        total.add_tally(part.tally)
    return {"token_counts": total.tally.get("tokens", [])}
