"""ECG as patches of lead x time: every token is a strip of one lead (as vision transformers cut pictures)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmpt.encoders import Encoder
from mmpt.encoders.recording import padded
from mmpt.encoders.strips import Strips
from mmpt.errors import ConfigError
from mmpt.tokens import Content, Shown, Tokens, another, gather
from mmpt.trunk.positions import sincos_2d


@dataclass(frozen=True)
class Ecg(Strips):
    """Strips of the observed leads, lead by lead; a place is lead x longest + strip, whatever is missing.

    Args:
        patch: samples of a strip.
        positions: the fixed two-dimensional sine-cosine table over leads and time, or a learned one.
    """

    patch: int = field(kw_only=True)
    positions: Literal["sincos", "learned"] = field(default="sincos", kw_only=True)
    places_count_up = False

    def __post_init__(self) -> None:
        if self.patch < 2:
            raise ConfigError(f"patch: expected at least 2 samples, got {self.patch}")
        super().__post_init__()

    @property
    def stride(self) -> int:
        """A patch."""
        return self.patch

    def num_tokens(self, start: int, stop: int) -> int:
        """Of a recording that lacks no lead; which leads it lacks is known when it is read."""
        return len(self.leads) * self.places(stop - start)

    def read(self, value: Any, start: int, stop: int, draw: int | None) -> np.ndarray:
        """Strips of all leads, those of missing ones NaN; float32 (N, P)."""
        signal = self.signal(value, start, stop)
        return np.ascontiguousarray(signal.T).reshape(-1, self.patch)

    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """One recording a row, its observed strips alone; values (B, N, P) float32."""
        tokens, places = zip(*(self._observed(self.only(row)) for row in rows), strict=True)
        return padded(tokens, places, size)

    def _observed(self, strips: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The strips without the missing ones, and their places."""
        if strips is None:
            return np.zeros((0, self.patch), np.float32), np.zeros(0, np.int64)
        observed = ~np.isnan(strips).any(axis=1)
        lead, strip = np.divmod(np.flatnonzero(observed), len(strips) // len(self.leads))
        return strips[observed], lead * self.max_places + strip

    def token_names(self, content: Content, row: int) -> list[str]:
        """Lead and time."""
        places, valid = content.place[row].tolist(), content.valid[row].tolist()
        return [self._name(place) if real else "" for place, real in zip(places, valid, strict=True)]

    def _name(self, place: int) -> str:
        lead, strip = divmod(place, self.max_places)
        return f"{self.leads[lead]} {self.stretch_name(strip)}"

    def encoder(self, width: int) -> "EcgEncoder":
        """A linear map of strips, and positions."""
        return EcgEncoder(self, width)


class EcgEncoder(Encoder):
    """Strips -> tokens, each from its own samples alone."""

    tokenwise = True

    def __init__(self, ecg: Ecg, width: int) -> None:
        super().__init__()
        self.grid = len(ecg.leads), ecg.max_places
        self.projection = nn.Linear(ecg.patch, width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        table = self.place_table(width)
        if ecg.positions == "learned":
            self.position = nn.Parameter(torch.randn_like(table) * 0.02)
        else:
            self.register_buffer("position", table, persistent=False)

    @property
    def neutral(self) -> float:
        """The mean of every lead."""
        return 0.0

    def forward(self, content: Content) -> Tokens:
        """Strips (B, N, P) -> tokens (B, N, D)."""
        x = self._embedded(content.values, None if content.full else content.valid)
        position = embedding(content.place, self.position).to(x.dtype)
        nowhere = torch.zeros_like(content.place)
        return Tokens(x, position, nowhere, content.valid, content.segment, nowhere, content.full)

    def _embedded(self, values: Float[Tensor, "B N P"], valid: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        if valid is not None:
            values = torch.where(valid.unsqueeze(2), values, 0.0)  # anything may stand in padding
        return self.projection(values.to(self.projection.weight.dtype))

    def settle(self, shown: Shown, size: int) -> Shown:
        """Nothing to add."""
        return shown

    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Another strip of the same recording, of any lead."""
        index = another(content.valid, choice)
        return self._embedded(gather(content.values, index), content.valid.gather(1, index))

    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Two-dimensional sine-cosine over leads and strips."""
        return sincos_2d(*self.grid, width)
