"""A recording -> a clip that tells as little as can be of how it was recorded."""

import io
import struct
from functools import cache

import numpy as np
import soundfile

RATE = 8000
FRAME, HOP = 256, 80
QUIET = 30.0  # dB below the loud frames: not speech
MARGIN = 240  # samples that stay around the speech
LEVEL = 0.08  # of the speech, root mean square
NOISE = 30.0  # dB below the speech
POLE = 0.9  # of the noise, whose spectrum falls as that of speech does
COMPRESSION = 0.95  # of libsndfile's Opus: about 27 kbit/s


def clip_of(recording: np.ndarray, seed: int) -> np.ndarray:
    """Silence at both ends removed, speech at one level, and noise that covers the recording's own."""
    power = frame_power(recording)
    speech = np.flatnonzero(power > threshold(power))
    start, stop = speech[0] * HOP - MARGIN, speech[-1] * HOP + FRAME + MARGIN
    clip = recording[max(0, start) : stop]
    power = frame_power(clip)
    clip = clip * (LEVEL / np.sqrt(power[power > threshold(power)].mean()))
    return (clip + noise(len(clip), seed) * LEVEL * 10 ** (-NOISE / 20)).astype(np.float32)


def frame_power(clip: np.ndarray) -> np.ndarray:
    """Mean square of every frame."""
    padded = np.pad(clip, (0, max(0, FRAME - len(clip))))
    return (np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP] ** 2).mean(axis=1)


def threshold(power: np.ndarray) -> float:
    """What a frame of speech is louder than."""
    return float(np.quantile(power, 0.95) * 10 ** (-QUIET / 10))


def noise(length: int, seed: int) -> np.ndarray:
    """Of unit power; the old generator, since only its numbers are promised never to change (NumPy's NEP 19)."""
    response = POLE ** np.arange(100) * np.sqrt(1 - POLE**2)
    return np.convolve(np.random.RandomState(seed).standard_normal(length + 99), response, "valid")


def opus(clip: np.ndarray, serial: int) -> bytes:
    """An Ogg Opus file; the stream's number, else drawn from the clock, is `serial`."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE, 1, format="OGG", subtype="OPUS", compression_level=COMPRESSION) as file:
        file.write(clip)
    data, at = bytearray(buffer.getvalue()), 0
    while at < len(data):  # page by page (RFC 3533)
        segments = data[at + 26]
        stop = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        struct.pack_into("<I", data, at + 14, serial)
        struct.pack_into("<I", data, at + 22, 0)  # the checksum is taken with itself as zero
        struct.pack_into("<I", data, at + 22, checksum(data[at:stop]))
        at = stop
    return bytes(data)


def checksum(page: bytes | bytearray) -> int:
    """The CRC of an Ogg page."""
    value, table = 0, checksum_table()
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ table[value >> 24 ^ byte]
    return value


@cache
def checksum_table() -> list[int]:
    """Remainders of every first byte."""
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    return table
