"""Bytes of a member -> value, by the declared schema alone; nothing here can reach a pickle."""

import io
import json
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from mmpt.data.mjpeg import split_jpegs
from mmpt.data.schema import Field
from mmpt.errors import DataError

MAX_PIXELS = 89_478_485  # PIL's own limit: a quarter of a gigabyte of RGB
ANIMATED = "an animated GIF, PNG or WebP picture"
ANIMATIONS = ("GIF", "PNG", "WEBP")
OPAQUE = 255
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
        audio: (float32 array of T or T x C, sampling rate in Hz). video: uint8 array of T x H x W x 3.

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
    with (
        picture_trouble("a PNG, JPEG or WebP picture"),
        Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as picture,
    ):
        if picture.width * picture.height > MAX_PIXELS:
            raise DataError(f"a picture of {picture.width} x {picture.height}; the limit is {MAX_PIXELS} pixels")
        picture.load()
        return to_rgb(ImageOps.exif_transpose(picture)), FORMATS[picture.format or ""]


@contextmanager
def picture_trouble(expected: str) -> Iterator[None]:
    """Whatever Pillow raises becomes a DataError; `expected` is what the bytes should be, with its article."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning)  # odd EXIF is no reason to speak
        try:
            yield
        except Image.UnidentifiedImageError as error:
            raise DataError(f"not {expected}") from error
        except PICTURE_BOMBS as error:
            raise DataError(f"more than {MAX_PIXELS} pixels, which may be a decompression bomb") from error
        except PICTURE_ERRORS as error:
            raise DataError(f"undecodable picture ({str(error) or type(error).__name__})") from error


def decode_video(data: bytes) -> UInt8[np.ndarray, "T H W 3"]:
    """All frames of a motion JPEG, an animated PNG or a GIF; transparent parts become white."""
    if data.startswith(b"\xff\xd8"):
        frames = [decode_image(picture) for picture in split_jpegs(data)]
    else:
        shown = list(animation_frames(data))
        counts = repeats([duration for _, duration in shown])
        frames = [frame for (frame, _), count in zip(shown, counts, strict=True) for _ in range(count)]
    check_frames([frame.size for frame in frames])
    return np.stack([np.asarray(frame) for frame in frames])


def animation_frames(data: bytes) -> Iterator[tuple[Image.Image, float]]:
    """Frames of an animated GIF, PNG or WebP picture in RGB, and the milliseconds of each; 0 is not known."""
    with picture_trouble(ANIMATED), Image.open(io.BytesIO(data), formats=ANIMATIONS) as picture:
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            picture.load()
            yield to_rgb(picture.copy()), picture.info.get("duration", 0)


def animation_times(data: bytes) -> tuple[tuple[int, int], list[float | int]]:
    """Size of the frames and the milliseconds of each, after decoding all of them; 0 is not known."""
    with picture_trouble(ANIMATED), Image.open(io.BytesIO(data), formats=ANIMATIONS) as picture:
        times = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            picture.load()
            times.append(picture.info.get("duration", 0))
        return picture.size, times


def repeats(durations: Sequence[float | int]) -> list[int]:
    """How often each frame counts, at the pace of the shortest: encoders make one long frame of several equal ones."""
    shortest = min((duration for duration in durations if duration > 0), default=0)
    return [max(1, round(duration / shortest)) if shortest else 1 for duration in durations]


def check_frames(sizes: Sequence[tuple[int, int]]) -> None:
    """Raises DataError for a clip that is none: frames are two or more, of one size, and not too large together."""
    if len(sizes) < 2:
        raise DataError(f"{len(sizes)} frame{'s' * (not sizes)}, where a clip has 2 or more")
    if len(set(sizes)) > 1:
        shown = " and ".join(f"{width} x {height}" for width, height in sorted(set(sizes))[:3])
        raise DataError(f"frames of {shown} pixels; all frames of a clip have one size")
    if (pixels := sizes[0][0] * sizes[0][1] * len(sizes)) > MAX_PIXELS:
        raise DataError(f"a clip of {pixels} pixels; the limit is {MAX_PIXELS}, cut or shrink it")


def to_rgb(picture: Image.Image) -> Image.Image:
    """RGB, 8 bits a channel; transparency is laid over white, 16-bit grey is scaled."""
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        if layer.getchannel("A").getextrema()[0] == OPAQUE:
            return layer.convert("RGB")
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
    "video": decode_video,
}
