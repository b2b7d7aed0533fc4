"""A user's raw values -> what the shards' decoders would have given, and what the model reads of it."""

from pathlib import Path
from typing import Any

import numpy as np

from mmpt.data.decode import decode
from mmpt.data.encode import measure
from mmpt.data.schema import Field
from mmpt.encoders import Modality
from mmpt.errors import DataError


def read_value(modality: Modality, value: Any) -> tuple[np.ndarray, bool]:
    """The beginning of a raw value, as long as the modality allows, and whether there was more.

    Raises:
        DataError: says what was expected and what came; the caller knows the sample and the field.
    """
    raw = raw_value(modality, value)
    values = modality.read(raw, 0, modality.limit, None)
    return values, is_longer(modality, raw, len(values))


def is_longer(modality: Modality, raw: Any, tokens: int) -> bool:
    """Whether a raw value, of which so many tokens were read, has more than the modality allows."""
    if modality.kind != "text":
        return len(modality.pieces(measure(Field("", modality.kind, ()), raw, None))) > 1
    # a text is as long as it has tokens, which reading alone tells
    limit = modality.limit
    return tokens >= modality.num_tokens(0, limit) and len(modality.read(raw, 0, limit + 1, None)) > tokens


def raw_value(modality: Modality, value: Any) -> Any:
    """What the decoder of the modality's kind of field gives: a file's contents where bytes or a path came.

    A str is text to a modality that reads text, and a path to any other.
    """
    if isinstance(value, Path) or (isinstance(value, str) and modality.kind != "text"):
        value = _contents(Path(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return decode(Field("", modality.kind, ()), bytes(value))
    return modality.convert(value)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from error
