"""Whole words, from the tokenizer's own marks (whole-word masking, Cui et al. 2019)."""

from jaxtyping import Bool, Int
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError
from mmpt.objectives.masking.unit import Unit
from mmpt.objectives.masking.unit.runs import numbered
from mmpt.tokens import Content, StreamContext


class WordStarts:
    """A table of ids that begin a word, kept on the device it was last asked for."""

    def __init__(self, modality: Modality, asked_by: str) -> None:
        if not isinstance(modality, Text):
            raise ConfigError(f"unit '{asked_by}' has a meaning for text only; use token, span or block")
        self.table = modality.word_starts()

    def __call__(self, content: Content) -> Bool[Tensor, "B N"]:
        self.table = self.table.to(content.values.device)
        return self.table[content.values]


class WordUnit(Unit):
    """A word is hidden whole or not at all."""

    def __init__(self, modality: Modality) -> None:
        self.starts = WordStarts(modality, "word")

    def units(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """One unit a word."""
        return numbered(self.starts(context.content), context.content)
