"""A tiny video modality, and clips in which a coarse random picture moves past a window."""

from pathlib import Path

import numpy as np
from PIL import Image as Picture

from mmpt.encoders import Facts
from mmpt.encoders.video import Video

FRAMES = (8, 4, 9, 19, 8, 8, 5, 15)  # of the clips
HEIGHT, WIDTH = 20, 24


def video_modality(folder: Path, **settings) -> Video:
    """16 places of 4 x 4 pixels at 2 times of 2 frames."""
    statistics = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    chosen = {"size": 16, "patch": 4, "frames": 4, "tubelet": 2, "stride": 2, **settings}
    return Video(Facts(folder, {}, statistics), **chosen)


def clip(number: int, frames: int = 8) -> np.ndarray:
    """A window that goes a pixel a frame to the right over a picture of its own; uint8 (T, H, W, 3)."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    wide = Picture.fromarray(pixels).resize((WIDTH + frames, HEIGHT), Picture.Resampling.BILINEAR)
    return np.stack([np.asarray(wide.crop((n, 0, n + WIDTH, HEIGHT))) for n in range(frames)])


def video_values() -> list[np.ndarray]:
    """Clips of several lengths."""
    return [clip(number, frames) for number, frames in enumerate(FRAMES)]
