"""Text as token ids of the data set's own tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from tokenizers import Tokenizer
from torch import Tensor, nn

from mmpt.data.tokenizer import kept_tokenizer, token_ids
from mmpt.encoders import Encoder, Facts, Modality
from mmpt.errors import ConfigError, DataError
from mmpt.tokens import Content, Shown, Tokens
from mmpt.trunk.positions import sincos

ROUND_TO = 8  # rows are padded to a multiple of this, so that few shapes occur


@dataclass(frozen=True)
class Text(Modality):
    """A document of at most `max_length` tokens, `<s>` and `</s>` among them.

    Args:
        max_length: tokens of one document in a row; longer ones are cut into several.
        positions: a learned table, a fixed sine-cosine table, or rotary attention.
    """

    facts: Facts
    max_length: int = field(default=128, kw_only=True)
    positions: Literal["learned", "sincos", "rotary"] = field(default="learned", kw_only=True)
    kind = "text"

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ConfigError(f"max_length: expected at least 3 (<s>, a token, </s>), got {self.max_length}")

    @property
    def tokenizer(self) -> Tokenizer:
        """The data set's tokenizer."""
        return kept_tokenizer(self.facts.folder / self.facts.values["tokenizer"])

    @property
    def vocabulary(self) -> int:
        """V, special tokens included."""
        return int(self.facts.values["vocabulary"])

    def special(self, name: str) -> int:
        """Id of one of bos, eos, pad, mask, unk."""
        return int(self.facts.values[name])

    @property
    def limit(self) -> int:
        """Tokens between <s> and </s>."""
        return self.max_length - 2

    def convert(self, value: Any) -> str:
        """A str that UTF-8 can hold."""
        if not isinstance(value, str):
            raise DataError(f"expected a str, UTF-8 bytes or a Path, got {type(value).__name__}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"character {error.start} can't be written as UTF-8") from error
        return value

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """Stretches that fit, all but the last full."""
        return [(start, min(start + self.limit, length)) for start in range(0, length, self.limit)]

    def num_tokens(self, start: int, stop: int) -> int:
        """The piece between <s> and </s>."""
        return stop - start + 2

    def read(self, value: str, start: int, stop: int, draw: int | None) -> np.ndarray:
        """Token ids, int64 (N)."""
        ids = token_ids(self.tokenizer, value)[start:stop]
        return np.asarray([self.special("bos"), *ids, self.special("eos")], dtype=np.int64)

    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """Documents of a row one after the other; ids (B, N)."""
        longest = max((sum(len(d) for d in row) for row in rows), default=0)
        width = size or max(-(-longest // ROUND_TO) * ROUND_TO, ROUND_TO)
        ids = np.full((len(rows), width), self.special("pad"), dtype=np.int64)
        segment, place = np.zeros_like(ids), np.zeros_like(ids)
        valid = np.zeros(ids.shape, dtype=bool)
        for number, row in enumerate(rows):
            start = 0
            for document, tokens in enumerate(row):
                stretch = slice(start, start + len(tokens))
                ids[number, stretch], valid[number, stretch] = tokens, True
                segment[number, stretch], place[number, stretch] = document, np.arange(len(tokens))
                start += len(tokens)
        observed = valid & (ids != self.special("bos")) & (ids != self.special("eos"))
        full = bool(valid.all()) and all(len(row) == 1 for row in rows)
        tensors = (torch.from_numpy(array) for array in (ids, valid, observed, segment, place))
        return Content(*tensors, full=full, observed_count=width - 2 if full else None)

    def token_names(self, content: Content, row: int) -> list[str]:
        """The tokens as the tokenizer writes them."""
        ids, valid = content.values[row].tolist(), content.valid[row].tolist()
        return [self.tokenizer.id_to_token(i) or "" if real else "" for i, real in zip(ids, valid, strict=True)]

    def encoder(self, width: int) -> "TextEncoder":
        """An embedding table and the chosen positions."""
        return TextEncoder(self, width)

    def word_starts(self) -> Bool[Tensor, " V"]:
        """Which ids begin a word: by the space mark of byte-level BPE, or the absence of WordPiece's '##'."""
        names = [self.tokenizer.id_to_token(number) or "" for number in range(self.vocabulary)]
        if any(name.startswith("##") for name in names):
            return torch.tensor([not name.startswith("##") for name in names])
        return torch.tensor([name.startswith(("Ġ", "▁", "Ċ")) for name in names])

    def token_counts(self) -> Float[Tensor, " V"]:
        """How often each id occurs in the training split, as the builder counted."""
        counts = self.facts.statistics.get("token_counts")
        if counts is None:
            raise ConfigError("the data set's manifest has no token counts; build it with 'mmpt build text'")
        return torch.tensor(counts, dtype=torch.float64)


class TextEncoder(Encoder):
    """Ids -> embeddings; a document's positions start at 0."""

    table: Tensor

    def __init__(self, text: Text, width: int) -> None:
        super().__init__()
        self.positions = text.positions
        self.max_length = text.max_length
        self.embedding = nn.Embedding(text.vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        if text.positions == "learned":
            self.place_embedding = nn.Embedding(text.max_length, width)
            nn.init.normal_(self.place_embedding.weight, std=0.02)
        elif text.positions == "sincos":
            self.register_buffer("table", self.place_table(width), persistent=False)

    def forward(self, content: Content) -> Tokens:
        """Ids (B, N) -> tokens (B, N, D)."""
        x = self.embedding(content.values)
        rotary = self.positions == "rotary"
        place = content.place if rotary else torch.zeros_like(content.place)
        stream = torch.zeros_like(content.place)
        return Tokens(
            x, self._position(content, x), place, content.valid, content.segment, stream, content.full, rotary
        )

    def _position(self, content: Content, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        if self.positions == "learned":
            return self.place_embedding(content.place)
        return self.table[content.place] if self.positions == "sincos" else torch.zeros_like(x)

    def settle(self, shown: Shown, size: int) -> Shown:
        """Nothing to add."""
        return shown

    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Embeddings of ids drawn uniformly from the whole vocabulary, as in BERT."""
        return self.embedding((choice * self.embedding.num_embeddings).long())

    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Sine-cosine, one row a token of the longest document."""
        return sincos(torch.arange(self.max_length).float(), width)
