"""Made-up samples of every modality, of several lengths, that two models are compared on."""

from typing import Any

import numpy as np
from PIL import Image as Picture

from mmpt.encoders import Modality
from mmpt.encoders.image import Image
from mmpt.encoders.labs import Labs
from mmpt.encoders.sound import Sound
from mmpt.encoders.text import Text
from mmpt.encoders.video import Video

TEXTS = ("A wren sang at dawn.", "Why?", "The grey harbour lay under mist, and nobody spoke of the long way home.")
SHARES = (1.0, 0.35, 0.7)  # of the longest recording


def fixtures_of(modality: Modality) -> list[Any]:
    """Three raw values, as a user would hand them over."""
    random = np.random.default_rng(0)
    if isinstance(modality, Text):
        return list(TEXTS)
    if isinstance(modality, Image):
        return [Picture.fromarray(random.integers(0, 256, (64, 80, 3), dtype=np.uint8)) for _ in SHARES]
    if isinstance(modality, Video):
        return [random.integers(0, 256, (modality.limit, 20, 24, 3), dtype=np.uint8) for _ in SHARES]
    if isinstance(modality, Labs):
        numeric = [column.name for column in modality.columns if not column.categories]
        named = {column.name: column.categories[-1] for column in modality.columns if column.categories}
        return [
            {name: float(random.normal()) for name in numeric[: max(round(share * len(numeric)), 1)]}
            | (named if share == 1 or not numeric else {})
            for share in SHARES
        ]
    lengths = [int(share * modality.limit) for share in SHARES]
    if isinstance(modality, Sound):
        return [(random.normal(size=length).astype(np.float32) * 0.1, int(modality.data_rate)) for length in lengths]
    leads = len(modality.facts.values["leads"])
    recordings = [random.normal(size=(length, leads)).astype(np.float32) for length in lengths]
    recordings[-1][:, : leads // 2] = np.nan  # leads that were not measured
    return recordings
