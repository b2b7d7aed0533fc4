"""Positions: fixed sine-cosine tables in one and two dimensions, and rotary turns."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def sincos(places: Float[Tensor, " N"], width: int) -> Float[Tensor, "N {width}"]:
    """[sin | cos] of place times 10000^(-i / (width / 2)) (Vaswani et al. 2017, section 3.5); width even."""
    if width % 2:
        raise ValueError(f"a sine-cosine table needs an even width, got {width}")
    rates = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = places.to(torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_2d(rows: int, columns: int, width: int) -> Float[Tensor, "N {width}"]:
    """Half of the width for each axis, the column index first, as MAE's tables are (He et al. 2021); width % 4 == 0."""
    if width % 4:
        raise ValueError(f"a two-dimensional sine-cosine table needs a width divisible by 4, got {width}")
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.cat([sincos(column.flatten().float(), width // 2), sincos(row.flatten().float(), width // 2)], dim=1)


def sincos_3d(times: int, rows: int, columns: int, width: int) -> Float[Tensor, "N {width}"]:
    """A quarter of the width for time, about, the rest for the two axes of space; width % 4 == 0 and at least 8."""
    if width % 4 or width < 8:
        raise ValueError(f"a sine-cosine table of time and space needs a width of 8, 12, 16 ..., got {width}")
    for_time = 4 * max(1, width // 16)
    time = sincos(torch.arange(times).float(), for_time).repeat_interleave(rows * columns, dim=0)
    return torch.cat([time, sincos_2d(rows, columns, width - for_time).repeat(times, 1)], dim=1)


def rotary_turns(place: Int[Tensor, "B S"], width: int, base: float) -> Float[Tensor, "2 B 1 S W"]:
    """Cosines and sines of the angles by which a head of `width` numbers is turned (Su et al. 2021)."""
    rates = base ** (-torch.arange(0, width, 2, device=place.device, dtype=torch.float32) / width)
    angles = place.unsqueeze(2).float() * rates  # B S W/2
    angles = torch.cat([angles, angles], dim=2).unsqueeze(1)
    return torch.stack([angles.cos(), angles.sin()])


def turn(x: Float[Tensor, "B H S W"], turns: Float[Tensor, "2 B 1 S W"]) -> Float[Tensor, "B H S W"]:
    """Turn every pair (i, i + W/2) of a head's numbers by its angle."""
    first, second = x.chunk(2, dim=3)
    return (x * turns[0] + torch.cat([-second, first], dim=3) * turns[1]).to(x.dtype)


class FixedPlaces(nn.Module):
    """A table of positions that is not trained, looked up by place."""

    table: Tensor

    def __init__(self, table: Float[Tensor, "N W"]) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)

    def forward(self, place: Int[Tensor, "B N"]) -> Float[Tensor, "B N W"]:
        """The row of every token's place."""
        return self.table[place]
