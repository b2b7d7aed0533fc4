"""Recordings at another sampling rate, the same for builders and for what a model reads."""

import numpy as np
from jaxtyping import Float


def resampled_wave(wave: Float[np.ndarray, " T"], rate: int, wanted: int) -> Float[np.ndarray, " R"]:
    """Sound by windowed-sinc interpolation (torchaudio's defaults)."""
    import torch  # slow to load, and torchaudio slower: only where a rate differs
    from torchaudio.functional import resample

    return resample(torch.from_numpy(np.ascontiguousarray(wave)), rate, wanted).numpy()


def resampled_leads(signal: Float[np.ndarray, "T C"], up: int, down: int) -> Float[np.ndarray, "R C"]:
    """ECG by a polyphase filter, `up` samples for every `down`; a lead with a sample that is no number is NaN."""
    from scipy.signal import resample_poly  # slow to import: only where rates differ

    observed = np.isfinite(signal).all(axis=0)
    found = resample_poly(signal[:, observed], up, down, axis=0, padtype="line")
    whole = np.full((len(found), signal.shape[1]), np.nan, dtype=found.dtype)
    whole[:, observed] = found
    return whole
