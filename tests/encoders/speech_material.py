"""Tiny speech modalities and recordings of different lengths: tones that glide, as vowels do, and a little noise."""

from pathlib import Path

import numpy as np

from mmpt.encoders import Facts, Modality
from mmpt.encoders.speech import Speech
from mmpt.encoders.speech_mel import SpeechMel

RATE = 8000
STEM = ((16, 8), (8, 8), (3, 2))  # windows of 200 samples every 128
WHOLE = 200 + 128 * 17  # samples: 18 frames, or 14 patches and a rest


def speech_facts(folder: Path, rate: int = RATE) -> Facts:
    return Facts(folder, {"sample_rate": rate})


def small_speech(folder: Path, **settings) -> Speech:
    settings = {"stem": STEM, "channels": 8, "kernel": 8, "groups": 4, "max_seconds": 0.32, **settings}
    return Speech(speech_facts(folder), **settings)


def speech_modalities(folder: Path) -> dict[str, Modality]:
    """Up to 19 frames of 25 ms every 16 ms, and up to 15 patches of 2 spectra of 20 bands."""
    mel = SpeechMel(speech_facts(folder), mels=20, kernel=2, stride=2, max_seconds=0.32)
    return {"speech": small_speech(folder), "speech_mel": mel}


def recording(number: int, length: int = WHOLE, rate: int = RATE) -> tuple[np.ndarray, int]:
    """A voice of its own; float32 (T) and its rate."""
    random = np.random.default_rng(number)
    time = np.arange(length) / rate
    pitch, glide = random.uniform(100, 250), random.uniform(-300, 300)
    phase = 2 * np.pi * (pitch * time + glide * time**2 / 2)
    tones = sum(random.uniform(0.02, 0.2) * np.sin(harmonic * phase) for harmonic in range(1, 8))
    swell = 1 + 0.8 * np.sin(2 * np.pi * random.uniform(3, 9) * time + random.uniform(0, 6))
    return (swell * tones + random.normal(0, 0.01, length)).astype(np.float32), rate


def speech_values() -> list[tuple[np.ndarray, int]]:
    """Four that differ in length, then eight of one length."""
    lengths = (WHOLE, 1111, 2001, 400)
    return [recording(number, length) for number, length in enumerate(lengths)] + [
        recording(number) for number in range(4, 12)
    ]
