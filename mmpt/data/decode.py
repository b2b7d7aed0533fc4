"""Bytes of a member -> value, by the declared schema alone; nothing here can reach a pickle."""

import io
import json
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mmpt.data.schema import Field
from mmpt.errors import DataError

MAX_PIXELS = 89_478_485  # PIL's own limit: a quarter of a gigabyte of RGB
FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}  # PIL's other readers stay out of reach
# what PIL raises on damaged files, found by fuzzing; there is no common base but Exception
PICTURE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
PICTURE_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def decode(field: Field, data: bytes) -> Any:
    """The value of a member.

    Args:
        field: the declared field; its kind chooses the decoder.
        data: the member's bytes.

    Returns:
        text: str. image: PIL image, RGB, loaded, transparency over white. json: dict. array: ndarray.
        audio: (float32 array of T or T x C, sampling rate in Hz).

    Raises:
        DataError: the bytes are not of the declared kind; says why, without the place (the caller knows it).
    """
    return DECODERS[field.kind](data)


def decode_text(data: bytes) -> str:
    """UTF-8, strictly."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text (byte 0x{data[error.start]:02x} at {error.start})") from error


def decode_image(data: bytes) -> Image.Image:
    """A fully loaded RGB picture; transparent parts become white."""
    return open_picture(data)[0]


def open_picture(data: bytes) -> tuple[Image.Image, str]:
    """The RGB picture and the ending its bytes should have (png, jpg or webp)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # odd EXIF is no reason to speak
            with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise DataError(
                        f"a picture of {picture.width} x {picture.height}; the limit is {MAX_PIXELS} pixels"
                    )
                picture.load()
                return to_rgb(ImageOps.exif_transpose(picture)), FORMATS[picture.format or ""]
    except Image.UnidentifiedImageError as error:
        raise DataError("not a PNG, JPEG or WebP picture") from error
    except PICTURE_BOMBS as error:
        raise DataError(f"more than {MAX_PIXELS} pixels, which may be a decompression bomb") from error
    except PICTURE_ERRORS as error:
        raise DataError(f"undecodable picture ({str(error) or type(error).__name__})") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """RGB, 8 bits a channel; transparency is laid over white, 16-bit grey is scaled."""
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def decode_json(data: bytes) -> dict[str, Any]:
    """A JSON object; a bare value (as in webdataset's .cls members) becomes {"label": value}."""
    try:
        value = json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})") from error
    return value if isinstance(value, dict) else {"label": value}


def decode_array(data: bytes) -> np.ndarray:
    """A .npy array of numbers; object arrays are pickles and are refused."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        raise DataError(f"not a plain .npy array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise DataError("an .npz archive, where one .npy array was declared")
    return array


def decode_audio(data: bytes) -> tuple[np.ndarray, int]:
    """Samples as float32, T or T x C, and the sampling rate in Hz."""
    import soundfile  # loads a C library: only where there is sound

    try:
        return soundfile.read(io.BytesIO(data), dtype="float32")
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(sound_trouble(error)) from error


def sound_trouble(error: Exception) -> str:
    """The decoder's words, without the address of a buffer that its own message has."""
    import soundfile

    words = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return f"undecodable sound ({words.strip().rstrip('.')})"


DECODERS = {
    "text": decode_text,
    "image": decode_image,
    "json": decode_json,
    "array": decode_array,
    "audio": decode_audio,
}
