"""The pieces of all samples of a source, from the manifest's lengths alone."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from mmpt.data.layouts import Pieces
from mmpt.data.manifest import Manifest
from mmpt.encoders import Modality
from mmpt.errors import DataError


def cut(manifest: Manifest, samples: Int[np.ndarray, " B"], modalities: Mapping[str, Modality]) -> Pieces:
    """Pieces of these samples; a joint sample, of several streams, is one piece, cut where its streams end.

    Raises:
        DataError: there is no piece.
    """
    if len(modalities) == 1:
        ((stream, modality),) = modalities.items()
        lengths = manifest.lengths(stream)[samples].tolist()
        pieces = [
            (sample, *piece)
            for sample, length in zip(samples.tolist(), lengths, strict=True)
            for piece in modality.pieces(length)
        ]
        tokens = [modality.num_tokens(start, stop) for _, start, stop in pieces]
    else:
        pieces = [(sample, 0, 0) for sample in samples.tolist()]
        tokens = _joint_tokens(manifest, samples, modalities)
    if not pieces:
        raise DataError(f"{manifest.folder}: no sample of the split has a field {' or '.join(modalities)}")
    sample, start, stop = np.asarray(pieces, dtype=np.int64).T
    return Pieces(sample, start, stop, np.asarray(tokens, dtype=np.int64))


def _joint_tokens(manifest: Manifest, samples: Int[np.ndarray, " B"], modalities: Mapping[str, Modality]) -> list[int]:
    totals = np.zeros(len(samples), dtype=np.int64)
    for stream, modality in modalities.items():
        for row, length in enumerate(manifest.lengths(stream)[samples].tolist()):
            totals[row] += modality.num_tokens(0, min(length, modality.limit)) if length else 0
    return totals.tolist()
