"""The words of a text and the tokens that they begin with."""

import re
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

Words = Literal["tokenizer", "space"]


class WordsOfText(NamedTuple):
    """In order."""

    words: list[str]
    first: Int[np.ndarray, " words"]  # the number of each word's first piece; special tokens are not counted


def words_of(tokenizer: Tokenizer, text: str, division: Words) -> WordsOfText:
    """Words as the tokenizer's pre-tokenization or as white space divides them; white space itself is no word.

    The first piece of a word is the first one that holds any of its characters. A word without a piece of its own, of
    characters that the tokenizer drops, begins where the next one does.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if division == "space":
        spans = [match.span() for match in re.finditer(r"\S+", text)]
    else:
        spans = _pre_tokenized(encoding.word_ids, encoding.offsets, text)
    ends = np.array([stop for _, stop in encoding.offsets], dtype=np.int64)
    first = np.searchsorted(ends, [start for start, _ in spans], side="right")
    return WordsOfText([text[start:stop] for start, stop in spans], first.astype(np.int64))


def _pre_tokenized(numbers: list[int | None], offsets: list[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """From where to where each word goes, white space around it left out."""
    spans: dict[int, tuple[int, int]] = {}
    for number, (start, stop) in zip(numbers, offsets, strict=True):
        if number is not None:
            before = spans.get(number, (start, stop))
            spans[number] = (min(before[0], start), max(before[1], stop))
    stripped = []
    for start, stop in spans.values():
        word = text[start:stop]
        if word.strip():
            begin = start + len(word) - len(word.lstrip())
            stripped.append((begin, begin + len(word.strip())))
    return stripped
