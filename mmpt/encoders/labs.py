"""Laboratory tables as one token an observed cell; what was not measured is simply not there."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmpt.encoders import Encoder, Facts, Modality
from mmpt.encoders.cell_values import CellValues, Column, quantile_table, read_columns
from mmpt.errors import DataError
from mmpt.tokens import Content, Shown, Tokens
from mmpt.trunk.positions import sincos

MISSING = ("NAType", "NaTType")  # pandas' own, which no comparison tells


@dataclass(frozen=True)
class Labs(Modality):
    """A row of a table: observed cells by column number, numbers clipped and standardised by the training split.

    Args:
        values: how numbers become vectors: `linear`, times one vector; `mlp`, through a small network; `quantile`, by
            how far they reach into each of the column's sixteenths (Gorishniy et al. 2022).
    """

    facts: Facts
    values: Literal["linear", "mlp", "quantile"] = field(default="linear", kw_only=True)
    kind = "array"
    places_count_up = False

    def __post_init__(self) -> None:
        _ = self.columns  # unusable facts are told of when the recipe is read

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """In the order of their numbers."""
        return read_columns(self.facts)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Of columns, by name."""
        return {column.name: number for number, column in enumerate(self.columns)}

    @property
    def entries(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(self.numbers)

    @cached_property
    def _scales(self) -> np.ndarray:
        """Low, high, mean and standard deviation of every column."""
        return np.array([column[3:7] for column in self.columns]).T

    @property
    def limit(self) -> int:
        """Every column once."""
        return len(self.columns)

    def convert(self, value: Any) -> np.ndarray:
        """A dict or pandas Series of values by column name, or (column number, value) rows; missing is None or NaN."""
        if not isinstance(value, Mapping | np.ndarray) and hasattr(value, "to_dict"):
            value = value.to_dict()
        if isinstance(value, Mapping):
            cells = [(self._number_of(name), self._cell(name, cell)) for name, cell in value.items()]
            cells = np.array(sorted(cell for cell in cells if cell[1] is not None), dtype=np.float64).reshape(-1, 2)
        elif isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "iuf":
            cells = value[np.argsort(value[:, 0], kind="stable")] if value.shape[1] else value
        else:
            got = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise DataError(f"expected a dict of values by column, or an array of (column number, value), got {got}")
        return check_cells(cells, self.columns)

    def _number_of(self, name: Any) -> int:
        if name not in self.numbers:
            near = difflib.get_close_matches(str(name), self.numbers, n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(self.numbers)}"
            raise DataError(f"no column '{name}'; {advice}")
        return self.numbers[name]

    def _cell(self, name: str, value: Any) -> float | None:
        """None where it is missing."""
        if (
            value is None
            or type(value).__name__ in MISSING
            or (isinstance(value, float | np.floating) and np.isnan(value))
        ):
            return None
        categories = self.columns[self.numbers[name]].categories
        if categories:
            if not isinstance(value, str) or value not in categories:
                raise DataError(f"column '{name}': expected one of {', '.join(categories)}, got {value!r}")
            return float(categories.index(value))
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
            raise DataError(f"column '{name}': expected a number, got {value!r}")
        return float(value)

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """Always the whole row."""
        return [(0, length)] if length else []

    def num_tokens(self, start: int, stop: int) -> int:
        """One a cell."""
        return stop - start

    def read(self, value: Any, start: int, stop: int, draw: int | None) -> np.ndarray:
        """(Column number, standardised number or number of the category) rows; float32 (N, 2)."""
        cells = check_cells(value, self.columns)[start:stop]
        column = cells[:, 0].astype(np.int64)
        low, high, mean, std = self._scales[:, column]
        return np.stack([column, (cells[:, 1].clip(low, high) - mean) / std], axis=1).astype(np.float32)

    def original(self, values: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Standardised numbers in the columns' own units, inside what the training split is clipped to."""
        low, high, mean, std = self._scales[:, column]
        return (values * std + mean).clip(low, high)

    def collate(self, rows: Sequence[Sequence[np.ndarray]], size: int | None) -> Content:
        """Cells by column, rows of a pack one after the other; values (B, N), their columns are the places."""
        longest = max((sum(map(len, row)) for row in rows), default=0)
        shape = (len(rows), size or max(longest, 1))
        values, valid = np.zeros(shape, np.float32), np.zeros(shape, dtype=bool)
        segment, place = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for line, row in enumerate(rows):
            start = 0
            for document, cells in enumerate(row):
                stretch = slice(start, start + len(cells))
                place[line, stretch], values[line, stretch] = cells[:, 0], cells[:, 1]
                segment[line, stretch], valid[line, stretch] = document, True
                start += len(cells)
        full = bool(valid.all()) and all(len(row) == 1 for row in rows)
        tensors = (torch.from_numpy(array) for array in (values, valid, valid.copy(), segment, place))
        return Content(*tensors, full=full, observed_count=shape[1] if full else None)

    def token_names(self, content: Content, row: int) -> list[str]:
        """Columns and their units."""
        places, valid = content.place[row].tolist(), content.valid[row].tolist()
        return [self.columns[place].label if real else "" for place, real in zip(places, valid, strict=True)]

    def encoder(self, width: int) -> "LabsEncoder":
        """Embedded values and learned columns."""
        return LabsEncoder(self, width)


def check_cells(cells: Any, columns: Sequence[Column]) -> np.ndarray:
    """The cells as float64; raises DataError for what is no row of these columns."""
    expected = "expected an array of (column number, value) rows"
    if not isinstance(cells, np.ndarray) or cells.dtype.kind not in "iuf" or cells.ndim != 2 or cells.shape[1] != 2:
        got = f"{cells.dtype} of shape {cells.shape}" if isinstance(cells, np.ndarray) else type(cells).__name__
        raise DataError(f"{expected}, got {got}")
    cells = cells.astype(np.float64)
    number, value = cells.T
    unknown = (number != np.floor(number)) | ~((number >= 0) & (number < len(columns)))
    if unknown.any():
        raise DataError(f"{expected} with columns 0 to {len(columns) - 1}, got column {number[unknown][0]:g}")
    if (np.diff(number) <= 0).any():
        raise DataError(f"{expected}, each column once and in order, got columns {', '.join(f'{n:g}' for n in number)}")
    counts = np.array([len(column.categories) for column in columns])[number.astype(np.int64)]
    wrong = ~np.isfinite(value) | ((counts > 0) & ((value != np.floor(value)) | (value < 0) | (value >= counts)))
    if wrong.any():
        column, count = columns[int(number[wrong][0])], counts[wrong][0]
        wanted = (
            f"the number of a category, 0 to {count - 1}" if count else "a finite number (missing cells are absent)"
        )
        raise DataError(f"column '{column.name}': expected {wanted}, got {value[wrong][0]:g}")
    return cells


class LabsEncoder(Encoder):
    """Cells -> tokens: the value is the content, the column the position."""

    tokenwise = True
    quantiles: Tensor

    def __init__(self, labs: Labs, width: int) -> None:
        super().__init__()
        self.values = CellValues(labs.columns, width, labs.values)
        self.columns = nn.Embedding(labs.limit, width)
        nn.init.normal_(self.columns.weight)  # as large as the values, or columns are told apart late
        self.register_buffer("quantiles", quantile_table(labs.columns), persistent=False)

    @property
    def neutral(self) -> float | None:
        """The columns' means; categories have none."""
        return None if self.values.kinds.size else 0.0

    def forward(self, content: Content) -> Tokens:
        """Values (B, N) and their columns -> tokens (B, N, D); whatever stands where no cell is counts as 0."""
        x = self.values(torch.where(content.valid, content.values, 0.0), content.place)
        position = embedding(content.place, self.columns.weight).to(x.dtype)
        nowhere = torch.zeros_like(content.place)
        return Tokens(x, position, nowhere, content.valid, content.segment, nowhere, content.full)

    def settle(self, shown: Shown, size: int) -> Shown:
        """Nothing to add."""
        return shown

    def substitute(self, content: Content, choice: Float[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """A value as the column has them: a number between two of its quantiles, or one of its categories."""
        quantiles = self.quantiles[content.place]  # B N edges
        steps = quantiles.shape[2] - 1
        step = (choice * steps).long().clamp(max=steps - 1)
        low, high = (quantiles.gather(2, index.unsqueeze(2)).squeeze(2) for index in (step, step + 1))
        number = torch.lerp(low, high, (choice * steps - step).to(low.dtype))
        kinds = self.values.kinds
        category = (choice * kinds.count[content.place]).floor().to(low.dtype)
        return self.values(torch.where(kinds.numeric[content.place], number, category), content.place)

    def place_table(self, width: int) -> Float[Tensor, "N W"]:
        """Sine-cosine of the column's number, as ReMasker has it (Du et al. 2023)."""
        return sincos(torch.arange(self.columns.num_embeddings).float(), width)
