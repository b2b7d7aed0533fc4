"""Value -> bytes of a member, by the declared schema; bytes that come ready-made pass after a full decode."""

import io
import json
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from mmpt.data.decode import FORMATS, check_frames, decode, open_picture, to_rgb
from mmpt.data.schema import Field
from mmpt.data.tokenizer import token_ids
from mmpt.errors import DataError

JPEG_QUALITY = 95


class Member(NamedTuple):
    """One member of a tar, ready to be written."""

    ending: str
    data: bytes
    length: int  # text tokens (characters without a tokenizer), audio or array samples, frames, 1 for the rest


def encode(field: Field, value: Any, tokenizer: Tokenizer | None = None) -> Member:
    """A member from a value; raises DataError for a value that the field's kind can't hold."""
    if isinstance(value, bytes | bytearray | memoryview):
        return encode_bytes(field, bytes(value), tokenizer)
    return ENCODERS[field.kind](field, value, tokenizer)


def encode_bytes(field: Field, data: bytes, tokenizer: Tokenizer | None) -> Member:
    """Ready-made bytes, unchanged, after a full decode."""
    if field.kind == "image":
        return Member(_picture_ending(field, open_picture(data)[1]), data, 1)
    return Member(field.members[0], data, measure(field, decode(field, data), tokenizer))


def measure(field: Field, value: Any, tokenizer: Tokenizer | None) -> int:
    """Length of a decoded value, in the unit of the manifest's `length` column."""
    if field.kind == "text":
        return len(token_ids(tokenizer, value)) if tokenizer else len(value)
    if field.kind == "audio":
        return len(value[0])
    return len(value) if field.kind in ("array", "video") and value.ndim else 1


def encode_text(field: Field, value: Any, tokenizer: Tokenizer | None) -> Member:
    """Any str but one with lone surrogates, which UTF-8 can't hold."""
    if not isinstance(value, str):
        raise DataError(f"field '{field.name}' takes text (str or UTF-8 bytes), got {type(value).__name__}")
    try:
        data = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"field '{field.name}': character {error.start} can't be written as UTF-8") from error
    return Member(field.members[0], data, measure(field, value, tokenizer))


def encode_image(field: Field, value: Any, tokenizer: Tokenizer | None) -> Member:
    """A PIL image, or a uint8 array of H W or H W C with 1, 3 or 4 channels."""
    picture = _from_array(field, value) if isinstance(value, np.ndarray) else value
    if not isinstance(picture, Image.Image):
        raise DataError(f"field '{field.name}' takes a PIL image, uint8 array or bytes, got {type(value).__name__}")
    ending = field.members[0]
    kind, file = ending.rsplit(".", 1)[-1].lower(), io.BytesIO()
    if kind == "png":
        (picture if picture.mode in ("L", "LA", "P", "RGB", "RGBA", "1") else to_rgb(picture)).save(file, "PNG")
    elif kind == "webp":
        to_rgb(picture).save(file, "WEBP", lossless=True)
    else:
        to_rgb(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return Member(ending, file.getvalue(), 1)


def encode_json(field: Field, value: Any, tokenizer: Tokenizer | None) -> Member:
    """A dict of plain JSON values; not-a-number is refused, for JSON has none."""
    if not isinstance(value, dict):
        raise DataError(f"field '{field.name}' takes a dict or JSON bytes, got {type(value).__name__}")
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return Member(field.members[0], text.encode("utf-8"), 1)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"field '{field.name}' can't be written as JSON ({error})") from error


def encode_array(field: Field, value: Any, tokenizer: Tokenizer | None) -> Member:
    """An ndarray of numbers or booleans."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        got = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise DataError(f"field '{field.name}' takes an array of numbers, got {got}")
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return Member(field.members[0], file.getvalue(), measure(field, value, tokenizer))


def encode_audio(field: Field, value: Any, tokenizer: Tokenizer | None) -> Member:
    """(array of T or T x C in [-1, 1], sampling rate in Hz), as 16-bit FLAC or WAV."""
    import soundfile

    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], np.ndarray)):
        raise DataError(f"field '{field.name}' takes (array, sampling rate) or bytes, got {type(value).__name__}")
    file = io.BytesIO()
    try:
        soundfile.write(file, value[0], int(value[1]), format=field.members[0].upper())
    except (soundfile.SoundFileError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"field '{field.name}': {error}") from error
    return Member(field.members[0], file.getvalue(), measure(field, value, tokenizer))


def encode_video(field: Field, value: Any, tokenizer: Tokenizer | None) -> Member:
    """A uint8 array of T H W 3 with two frames or more: JPEG pictures one behind the other, or a lossless APNG."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.shape[3:] != (3,) or 0 in value.shape:
        got = f"{value.dtype} of {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise DataError(f"field '{field.name}' takes uint8 frames of T x H x W x 3 or bytes, got {got}")
    check_frames([(value.shape[2], value.shape[1])] * len(value))
    first, *rest = map(Image.fromarray, value)
    file = io.BytesIO()
    if field.members[0] == "apng":
        # without durations, for Pillow would make one frame of equal ones
        first.save(file, "PNG", save_all=True, append_images=rest)
    elif field.members[0] == "mjpeg":
        for frame in (first, *rest):
            frame.save(file, "JPEG", quality=JPEG_QUALITY)
    else:
        raise DataError(f"field '{field.name}': frames can't be written as .{field.members[0]}; use .mjpeg or .apng")
    return Member(field.members[0], file.getvalue(), len(value))


ENCODERS = {
    "text": encode_text,
    "image": encode_image,
    "json": encode_json,
    "array": encode_array,
    "audio": encode_audio,
    "video": encode_video,
}


def _picture_ending(field: Field, ending: str) -> str:
    kinds = {member: member.rsplit(".", 1)[-1].lower() for member in field.members}
    fitting = [m for m, kind in kinds.items() if kind == ending or (ending == "jpg" and kind == "jpeg")]
    if not fitting:
        name = next(name for name, own in FORMATS.items() if own == ending)
        raise DataError(f"field '{field.name}' is declared as {', '.join(field.members)}, but the bytes are {name}")
    return fitting[0]


def _from_array(field: Field, array: np.ndarray) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise DataError(
            f"field '{field.name}' takes uint8 arrays of H x W or H x W x (1, 3 or 4), "
            f"got {array.dtype} of {' x '.join(map(str, array.shape))}"
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)
