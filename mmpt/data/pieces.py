"""A whole field in the pieces that training reads of it, and what labels of those pieces are labels of."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mmpt.data.encode import measure
from mmpt.data.schema import Field
from mmpt.encoders import Modality
from mmpt.encoders.sound import Sound
from mmpt.encoders.text import Text

Piece = tuple[int, int]  # start and stop, in the field's own units


def pieces_of(modality: Modality, value: Any) -> list[Piece]:
    """How training cuts a decoded field. One that is too short for any is one piece, and reading it tells why."""
    tokenizer = modality.tokenizer if isinstance(modality, Text) else None
    length = measure(Field("", modality.kind, ()), value, tokenizer)
    return modality.pieces(length) or [(0, length)]


def observed_tokens(modality: Modality, read: np.ndarray) -> int:
    """Of a piece that was read."""
    content = modality.collate([[read]], None)
    return int((content.valid & content.observed).sum())


def token_rate(modality: Modality) -> Fraction | None:
    """Tokens a second of sound; None where tokens are not places in time alone."""
    return Fraction(modality.rate) / modality.step if isinstance(modality, Sound) else None


def cut_facts(modality: Modality) -> dict[str, Any]:
    """What labels of single tokens keep of how samples were cut: other pieces have their tokens in another order."""
    return {} if isinstance(modality, Sound) else {"limit": modality.limit}


def first_frame(start: int, rate: Fraction, modality: Sound) -> int:
    """Of a piece, among the frames of the whole recording at `rate`; HuBERT rounds where a crop begins."""
    return round(start * rate / Fraction(modality.data_rate))


def side_by_side(
    frames: Sequence[Shaped[np.ndarray, "_ ..."]], pieces: Sequence[Piece], length: int, modality: Sound
) -> Shaped[np.ndarray, "_ ..."]:
    """Frames of all pieces -> those of the whole recording, one for each step of the tokens' rate.

    A piece ends up to a window before the next begins: its last frame stands for the rest, and so does the last piece's
    for an end that is too short to be a piece.

    Args:
        frames: of each piece.
        pieces: where they begin and stop.
        length: of the recording, in samples.
        modality: that cut it.
    """
    rate = token_rate(modality)
    assert rate is not None
    first = [first_frame(start, rate, modality) for start, _ in pieces]
    last = first[-1] + len(frames[-1])
    if length > modality.limit:
        last = max(last, int(length * rate / Fraction(modality.data_rate)))
    counts = np.diff([*first, last])
    return np.concatenate(
        [own[np.arange(count).clip(max=len(own) - 1)] for own, count in zip(frames, counts, strict=True)]
    )
