"""Whole recordings through a model that reads them in pieces, as training does."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mmpt.data.pieces import Piece, pieces_of, side_by_side
from mmpt.encoders import Modality
from mmpt.encoders.sound import Sound
from mmpt.tokens import Content

ROWS = 16  # pieces that go through the model at once


def frames_of(
    modality: Modality, values: Sequence[Any], encode: Callable[[Content], Float[Tensor, "B N P"]]
) -> list[Float[np.ndarray, "_ P"]]:
    """Frames of each decoded field, from its first sample to its last.

    Of sound one for each step of the tokens' rate, see `side_by_side`; of anything else one for each observed token,
    piece after piece, in the order that `UnitLabels.tokens` finds them in.

    Args:
        modality: that reads and cuts them.
        values: decoded fields.
        encode: Frames of all tokens of a batch of pieces, on the host.
    """
    cuts = [pieces_of(modality, value) for value in values]
    every = [(value, piece) for value, own in zip(values, cuts, strict=True) for piece in own]
    found = (
        frames
        for start in range(0, len(every), ROWS)
        for frames in _encoded(modality, every[start : start + ROWS], encode)
    )
    return [
        _joined(modality, value, list(islice(found, len(own))), own) for value, own in zip(values, cuts, strict=True)
    ]


def _encoded(
    modality: Modality, pieces: Sequence[tuple[Any, Piece]], encode: Callable[[Content], Float[Tensor, "B N P"]]
) -> list[Float[np.ndarray, "_ P"]]:
    content = modality.collate([[modality.read(value, *piece, None)] for value, piece in pieces], None)
    kept = content.valid & content.observed
    return [own[mine].numpy() for own, mine in zip(encode(content), kept, strict=True)]


def _joined(
    modality: Modality, value: Any, frames: Sequence[Float[np.ndarray, "_ P"]], pieces: Sequence[Piece]
) -> Float[np.ndarray, "_ P"]:
    if isinstance(modality, Sound):
        return side_by_side(frames, pieces, len(value[0]), modality)
    return np.concatenate(frames)
