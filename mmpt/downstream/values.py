"""A user's raw values -> what the shards' decoders would have given, and what the model reads of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture
from PIL import ImageOps

from mmpt.data.decode import PICTURE_ERRORS, decode, to_rgb
from mmpt.data.schema import Field
from mmpt.encoders import Modality
from mmpt.errors import DataError


def read_value(modality: Modality, value: Any) -> tuple[np.ndarray, bool]:
    """The beginning of a raw value, as long as the modality allows, and whether there was more.

    Raises:
        DataError: says what was expected and what came; the caller knows the sample and the field.
    """
    raw = raw_value(modality.kind, value)
    limit = modality.limit
    values = modality.read(raw, 0, limit + 1, None)
    if len(values) <= modality.num_tokens(0, limit):
        return values, False
    return modality.read(raw, 0, limit, None), True


def raw_value(kind: str, value: Any) -> Any:
    """What the decoder of this kind of field gives: a file's contents where a path came, and pictures as RGB."""
    if isinstance(value, Path) or (isinstance(value, str) and kind != "text"):
        value = _contents(Path(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return decode(Field("", kind, ()), bytes(value))
    return CONVERSIONS[kind](value) if kind in CONVERSIONS else value


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"expected a str, UTF-8 bytes or a Path, got {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"character {error.start} can't be written as UTF-8") from error
    return value


def _picture(value: Any) -> Picture.Image:
    expected = "expected a PIL image, a uint8 array of H x W or H x W x (1, 3 or 4), bytes or a path"
    if isinstance(value, np.ndarray):
        channels = value.shape[2] if value.ndim == 3 else 1
        if value.dtype != np.uint8 or value.ndim not in (2, 3) or channels not in (1, 3, 4) or not value.size:
            raise DataError(f"{expected}, got {value.dtype} of {' x '.join(map(str, value.shape))}")
        value = Picture.fromarray(value[:, :, 0] if value.ndim == 3 and channels == 1 else value)
    if not isinstance(value, Picture.Image):
        raise DataError(f"{expected}, got {type(value).__name__}")
    try:
        return to_rgb(ImageOps.exif_transpose(value))
    except PICTURE_ERRORS as error:
        raise DataError(f"undecodable picture ({str(error) or type(error).__name__})") from error


CONVERSIONS: dict[str, Callable[[Any], Any]] = {"text": _text, "image": _picture}
