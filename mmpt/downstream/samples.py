"""Samples as people have them -> batches of a run's streams."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from mmpt.downstream.values import read_value
from mmpt.encoders import Modality
from mmpt.errors import DataError
from mmpt.tokens import Batch


class Prepared(NamedTuple):
    """A sample ready for collating."""

    number: int
    values: dict[str, np.ndarray]
    cut: bool

    @property
    def length(self) -> int:
        """Tokens of all streams."""
        return sum(map(len, self.values.values()))


def prepared(samples: Iterable[Mapping[str, Any]], modalities: Mapping[str, Modality]) -> Iterator[Prepared]:
    """Each sample's values as its streams read them; raises DataError with the sample's number."""
    for number, sample in enumerate(samples):
        if not isinstance(sample, Mapping) or not sample:
            raise DataError(f"sample {number}: expected a dict with any of {', '.join(modalities)}")
        values, cut = {}, False
        for name, value in sample.items():
            if name not in modalities:
                raise DataError(f"sample {number}: {unknown_stream(name, modalities)}")
            try:
                values[name], longer = read_value(modalities[name], value)
            except DataError as error:
                raise DataError(f"sample {number}: field '{name}': {error}") from error
            cut = cut or longer
        yield Prepared(number, values, cut)


def collated(samples: list[Prepared], modalities: Mapping[str, Modality]) -> Batch:
    """The streams that any of them has, one sample a row."""
    streams = {}
    for name, modality in modalities.items():
        rows = [[sample.values[name]] if name in sample.values else [] for sample in samples]
        if any(rows):
            streams[name] = modality.collate(rows, None)
    uid = torch.tensor([sample.number for sample in samples])
    return Batch(streams, uid, torch.zeros_like(uid), "encode", 0)


def unknown_stream(name: Any, streams: Mapping[str, Modality]) -> str:
    """The message about a stream that a run does not have."""
    near = difflib.get_close_matches(str(name), streams, n=1)
    advice = f"did you mean '{near[0]}'? " if near else ""
    return f"this run has no stream '{name}'; {advice}it has {', '.join(streams)}"
