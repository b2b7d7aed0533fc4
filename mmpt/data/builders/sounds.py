"""Bytes of a recording -> mono 16-bit pieces at one sampling rate, with what was noticed on the way."""

import io
from math import gcd
from typing import NamedTuple

import numpy as np

from mmpt.data.builders.files import FileRecord, read_file
from mmpt.data.decode import sound_trouble
from mmpt.data.resampling import resampled_wave
from mmpt.errors import DataError

MAX_BYTES = 2**30  # of a file
MAX_VALUES = 2**27  # samples times channels: half a gigabyte decoded
MAX_KERNEL = 2**24  # numbers in a resampling filter; rates without a common divisor would need gigabytes
SHORTEST = 0.025  # seconds: one window of the usual front ends
WINDOW = 0.020  # seconds that loudness is measured over
SILENCE = 10**6  # power below full scale: -60 dBFS
FULL_SCALE = 32768
CLIP_RUN = 3  # samples in a row at full scale: one alone may be a peak
LOUDEST = 4.0  # lossy codecs overshoot full scale by a little; beyond this the values are not in [-1, 1]
STREAMED = 2**31 - 2**16  # a WAV header's size from here on stands for "not known yet"


class Header(NamedTuple):
    """What a recording says of itself."""

    frames: int
    rate: int
    channels: int


class Piece(NamedTuple):
    """A stretch of a recording, as it is stored.

    Args:
        samples: int16, mono, at the wanted rate.
        start: seconds into the recording.
        clipped: samples of the source in runs at full scale, over all channels.
        rate: of the source.
        channels: of the source.
    """

    samples: np.ndarray
    start: float
    clipped: int
    rate: int
    channels: int


def read_header(record: FileRecord) -> Header:
    """Length and rate without decoding; raises DataError with the reason."""
    import soundfile  # loads a C library: only where there is sound

    try:
        path = str(record.source / record.name)
        info = soundfile.info(path if record.source.is_dir() else io.BytesIO(read_file(record, MAX_BYTES)))
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(sound_trouble(error)) from error
    return Header(info.frames, info.samplerate, info.channels)


def num_pieces(header: Header, max_seconds: float) -> int:
    """How many pieces keep to the limit wherever in the last tenth of each the cut falls."""
    limit = int(max_seconds * header.rate)
    return 1 if header.frames <= limit else -(-11 * header.frames // (10 * limit))


def read_pieces(record: FileRecord, rate: int, count: int) -> list[Piece]:
    """The pieces of a recording, which tile it exactly; raises DataError with the reason for a bad one.

    Args:
        record: the file.
        rate: that the pieces have, in Hz.
        count: of pieces; cuts fall as `cut_points` says.
    """
    source, source_rate = decode_sound(read_file(record, MAX_BYTES))
    check_sound(source, source_rate)
    mono = source[:, 0] if source.shape[1] == 1 else source.mean(axis=1, dtype=np.float32)
    samples = to_int16(resample(mono, source_rate, rate))
    edges = cut_points(to_int16(mono), source_rate, count)
    stored = [edge * rate // source_rate for edge in edges[:-1]] + [len(samples)]
    return [
        Piece(
            samples[stored[number] : stored[number + 1]],
            edges[number] / source_rate,
            count_clipped(source[edges[number] : edges[number + 1]]),
            source_rate,
            source.shape[1],
        )
        for number in range(count)
    ]


class PieceReader:
    """Remembers the recording read last: pieces that follow each other decode it once.

    Args:
        rate: that the pieces have, in Hz.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._last: tuple[str, int] = ("", 0)
        self._pieces: list[Piece] = []

    def __call__(self, record: FileRecord, count: int) -> list[Piece]:
        if self._last != (record.place, count):
            self._pieces = read_pieces(record, self._rate, count)
            self._last = (record.place, count)
        return self._pieces


def decode_sound(data: bytes) -> tuple[np.ndarray, int]:
    """Float32 samples, T x C, and their rate; raises DataError for damage that a lenient decoder would hide."""
    import soundfile

    if not data:
        raise DataError("an empty file")
    _check_whole(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            frames, rate = file.frames, file.samplerate
            if frames * file.channels > MAX_VALUES:
                raise DataError(
                    f"{frames} samples of {file.channels} channels; the limit is {MAX_VALUES} in all, split the file"
                )
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(sound_trouble(error)) from error
    if len(samples) != frames:
        raise DataError(f"damaged: the header says {frames} samples, {len(samples)} could be decoded")
    return samples, rate


def check_sound(samples: np.ndarray, rate: int) -> None:
    """Raises DataError for samples, T x C, that nothing can be learnt from."""
    if not len(samples):
        raise DataError("zero length: there is no sample in it")
    if len(samples) < SHORTEST * rate:
        raise DataError(f"{1000 * len(samples) / rate:.1f} ms of sound, at least {1000 * SHORTEST:.0f} ms are needed")
    if bad := int((~np.isfinite(samples)).sum()):
        raise DataError(f"{bad} of {samples.size} values are not finite (NaN or infinite)")
    if (peak := float(np.abs(samples).max())) > LOUDEST:
        raise DataError(f"values up to {peak:.4g}, expected -1 to 1; scale them")


def resample(mono: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """To another rate; raises DataError for rates that fit badly."""
    if rate == wanted:
        return mono
    common = gcd(rate, wanted)
    if rate * wanted // common**2 > MAX_KERNEL:
        raise DataError(f"sampled at {rate} Hz, which has too little in common with {wanted} Hz to be resampled")
    return resampled_wave(mono, rate, wanted)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Nearest 16-bit values; what 16-bit files hold comes back unchanged."""
    return np.rint(samples * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def cut_points(samples: np.ndarray, rate: int, count: int) -> list[int]:
    """Edges of `count` pieces, 0 and the end included.

    The recording is divided into equal stretches; each cut but the last falls into the middle of the quietest 20 ms
    (the first of them) within the last tenth of its stretch.
    """
    total, width = len(samples), max(2, round(WINDOW * rate))
    edges = [0]
    for number in range(1, count):
        end = total * number // count
        begin = end - max(total // count // 10, width)
        power = np.concatenate([[0], np.cumsum(samples[begin:end].astype(np.int64) ** 2)])
        quietest = int(np.argmin(power[width:] - power[:-width]))
        edges.append(begin + quietest + width // 2)
    return [*edges, total]


def count_clipped(samples: np.ndarray) -> int:
    """Values of T x C that stand in runs at full scale."""
    full = np.abs(samples) >= (FULL_SCALE - 1) / FULL_SCALE
    runs = full[2:] & full[1:-1] & full[:-2]
    clipped = np.zeros_like(full)
    for shift in range(CLIP_RUN):
        clipped[shift : shift + len(runs)] |= runs
    return int(clipped.sum())


def count_quiet(samples: np.ndarray, rate: int) -> tuple[int, int]:
    """Whole 20 ms windows of int16 samples below -60 dBFS (root mean square), and all of them."""
    width = max(1, round(WINDOW * rate))
    count = len(samples) // width
    power = (samples[: count * width].reshape(count, width).astype(np.int64) ** 2).sum(axis=1)
    return int((power * SILENCE < width * FULL_SCALE**2).sum()), count


def _check_whole(data: bytes) -> None:
    """A WAV file cut short decodes without a word."""
    stated = int.from_bytes(data[4:8], "little")
    if data[:4] == b"RIFF" and 0 < stated < STREAMED and stated + 7 > len(data):
        raise DataError(f"damaged: the header says {stated + 8} bytes, the file has {len(data)}")
