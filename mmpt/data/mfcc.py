"""The features of HuBERT's first iteration (Hsu et al. 2021, section IV.B).

13 MFCCs with their first and second differences, 25 ms windows every 10 ms, as Kaldi computes them.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from mmpt.errors import DataError

COEFFICIENTS = 13
WINDOW, HOP = 25, 10  # ms
NUMBERS = 3 * COEFFICIENTS


def mfcc_features(samples: Float[np.ndarray, " T"], rate: int) -> Float[np.ndarray, "N P"]:
    """Sound at `rate` Hz -> (N, 39) at `mfcc_rate(rate)`; raises DataError for what is shorter than a window."""
    if len(samples) < rate * WINDOW // 1000:
        raise DataError(f"{len(samples)} samples at {rate} Hz, expected at least {rate * WINDOW // 1000} for an MFCC")
    wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None]
    cepstra = kaldi.mfcc(
        wave, sample_frequency=float(rate), frame_length=float(WINDOW), frame_shift=float(HOP), use_energy=False
    ).T
    slopes = compute_deltas(cepstra)
    return torch.cat([cepstra, slopes, compute_deltas(slopes)]).T.contiguous().numpy()


def mfcc_of(value: tuple[np.ndarray, int]) -> Float[np.ndarray, "N P"]:
    """Of a decoded recording; raises DataError for more channels than one."""
    samples, rate = value
    if samples.ndim == 2 and samples.shape[1] == 1:
        samples = samples[:, 0]
    if samples.ndim != 1:
        raise DataError(f"{samples.shape[1]} channels, expected mono; build with 'mmpt build speech'")
    return mfcc_features(samples, rate)


def mfcc_rate(rate: int) -> Fraction:
    """Frames a second: 100 for every usual rate."""
    return Fraction(rate, rate * HOP // 1000)


def mfcc_settings() -> dict[str, Any]:
    """What a codebook says of them."""
    return {"type": "mfcc", "coefficients": COEFFICIENTS, "window_ms": WINDOW, "hop_ms": HOP, "differences": 2}
