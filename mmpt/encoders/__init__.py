"""A modality: how one field of a sample becomes a stream of tokens. One file a modality."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.tokens import Content, Shown, Tokens


@dataclass(frozen=True)
class Facts:
    """What the data sets say of a field: the same for all sources of a run.

    Args:
        folder: the data set or run that files named in `values` lie in.
        values: the field's facts from the manifest.
        statistics: what the builder measured.
    """

    folder: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)


class Encoder(nn.Module, ABC):
    """Content of one modality -> tokens of width D.

    `tokenwise` says that a token depends on its own content and place alone, so that dropped ones need not be embedded.
    `has_penalty` says that its tokens come with the mean square of the features that they are made of.
    """

    tokenwise: bool = False
    has_penalty: bool = False

    @property
    def neutral(self) -> Tensor | float | None:
        """What stands in a token's values where they say nothing; None where all that can stand there says something.

        A number, or one for each of a token's numbers.
        """
        return None

    @abstractmethod
    def forward(self, content: Content) -> Tokens:
        """Tokens aligned with `content`; the trunk sets their stream."""

    @abstractmethod
    def settle(self, shown: Shown, size: int) -> Shown:
        """What can only be added once it is known what is shown, such as convolutional positions; `size` is N.

        What an encoder adds may depend on the shown tokens alone, never on hidden ones. Most have nothing to add.
        """

    @abstractmethod
    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Other content for every place, picked by numbers in (0, 1): what BERT calls a random token."""

    @abstractmethod
    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Fixed positions of every place at another width, for decoders."""


class Modality(ABC):
    """Raw field -> tokens. A frozen dataclass without weights: it pickles into the loader's workers.

    The one positional field is `facts`; keyword-only fields are settings.
    """

    facts: Facts
    kind: str  # the kind of field it reads, see mmpt.data.schema
    places_count_up: ClassVar[bool] = True  # a token's place is its number in its document

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of a value's parts, where a value is a dict that a table may hold as a column a part."""
        return ()

    @property
    def augments(self) -> bool:
        """Whether training may see a sample otherwise than it is."""
        return False

    @property
    @abstractmethod
    def limit(self) -> int:
        """The longest piece, in the field's units: where a joint sample is cut off."""

    @abstractmethod
    def convert(self, value: Any) -> Any:
        """What a user may hand over (arrays, dicts, pictures) -> what the decoder would give. Raises DataError."""

    @abstractmethod
    def pieces(self, length: int) -> list[tuple[int, int]]:
        """How a field of this length is cut, in its own units."""

    @abstractmethod
    def num_tokens(self, start: int, stop: int) -> int:
        """Tokens that such a piece takes in a row."""

    @abstractmethod
    def read(self, value: Any, start: int, stop: int, draw: int | None) -> np.ndarray:
        """One decoded field -> values (N ...). `draw` keys the augmentation; None means none. Raises DataError."""

    @abstractmethod
    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """Rows of documents -> one padded block; `size` fixes N. A row without documents is all padding."""

    @abstractmethod
    def token_names(self, content: Content, row: int) -> list[str]:
        """A name, for people, of each of the N tokens of a row; empty for padding."""

    @abstractmethod
    def encoder(self, width: int) -> Encoder:
        """The module that embeds it, for a trunk of width D."""
