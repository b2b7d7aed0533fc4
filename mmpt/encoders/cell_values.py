"""Columns of a table: what a value of theirs means, and how it becomes a vector."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmpt.encoders import Facts
from mmpt.errors import ConfigError

BUILD = "build the data set with 'mmpt build labs'"


class Column(NamedTuple):
    """What the data set says of a column, and what the training split says of its values."""

    name: str
    unit: str | None
    categories: tuple[str, ...]  # of a categorical column; empty where values are numbers
    low: float  # a number is clipped to low..high before it is standardised
    high: float
    mean: float
    std: float
    edges: tuple[float, ...]  # quantiles of the standardised numbers, in equal steps

    @property
    def label(self) -> str:
        """Name and unit, for people."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


def read_columns(facts: Facts) -> tuple[Column, ...]:
    """The columns in their order; raises ConfigError for facts and statistics that do not tell what is needed."""
    described, measured = facts.values.get("columns"), facts.statistics.get("columns")
    if not isinstance(described, Sequence) or not described:
        raise ConfigError(f"the data set does not say which columns its tables have; {BUILD}")
    if not isinstance(measured, Sequence) or len(measured) != len(described):
        count = len(measured) if isinstance(measured, Sequence) else "no"
        raise ConfigError(f"the data set has {len(described)} columns and statistics of {count}; {BUILD}")
    columns = tuple(_column(*pair) for pair in zip(described, measured, strict=True))
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"two columns are named '{twice}'; names must differ")
    steps = {len(column.edges) for column in columns if not column.categories}
    if len(steps) > 1 or steps & {0, 1}:
        raise ConfigError(f"expected as many quantiles of every numeric column, at least 2, got {sorted(steps)}")
    return columns


def _column(described: Mapping[str, Any], measured: Mapping[str, Any]) -> Column:
    try:
        name, unit, kind = described["name"], described["unit"], described["kind"]
        if kind == "categorical" and described["categories"]:
            return Column(name, unit, tuple(described["categories"]), -torch.inf, torch.inf, 0.0, 1.0, ())
        if kind != "numeric":
            raise ConfigError(f"column '{name}': expected kind numeric, or categorical with categories, got {kind!r}")
        low, high, mean, std = (float(measured[key]) for key in ("low", "high", "mean", "std"))
        edges = tuple((min(max(edge, low), high) - mean) / std for edge in measured["quantiles"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        name = described.get("name") if isinstance(described, Mapping) else described
        raise ConfigError(f"column '{name}': facts or statistics that can't be used ({error!r}); {BUILD}") from error
    return Column(name, unit, (), low, high, mean, std, edges)


class ColumnKinds(nn.Module):
    """Which columns hold numbers, and where the categories of the others stand among the K of all columns."""

    numeric: Tensor  # C
    first: Tensor  # C: of a column's categories
    count: Tensor  # C: of categories; 1 where there are none, so that every index exists

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        sizes = torch.tensor([len(column.categories) for column in columns])
        self.size = int(sizes.sum())
        self.register_buffer("numeric", sizes == 0, persistent=False)
        self.register_buffer("first", (sizes.cumsum(0) - sizes) * (sizes > 0), persistent=False)
        self.register_buffer("count", sizes.clamp(min=1), persistent=False)

    def category(self, values: Float[Tensor, "B N"], place: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
        """Among all K, from a category's number in its own column; of a cell that holds a number, any that exists."""
        return self.first[place] + values.long().clamp(min=0).minimum(self.count[place] - 1)


class LinearNumbers(nn.Module):
    """A number times a vector, as ReMasker has it (Du et al. 2023)."""

    def __init__(self, columns: Sequence[Column], width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(1, width)

    def forward(self, values: Float[Tensor, "B N"], place: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """The same map for every column."""
        return self.projection(values.unsqueeze(2))


class MlpNumbers(nn.Module):
    """A number through a small network (Labrador, Bellamy et al. 2023)."""

    def __init__(self, columns: Sequence[Column], width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, values: Float[Tensor, "B N"], place: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """The same map for every column."""
        return self.layers(values.unsqueeze(2))


class QuantileNumbers(nn.Module):
    """Piecewise-linear encoding over the column's quantiles (Gorishniy et al. 2022, section 3.2)."""

    edges: Tensor

    def __init__(self, columns: Sequence[Column], width: int) -> None:
        super().__init__()
        self.register_buffer("edges", quantile_table(columns), persistent=False)
        self.projection = nn.Linear(self.edges.shape[1] - 1, width)

    def forward(self, values: Float[Tensor, "B N"], place: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """How full each bin is: 1 below the value's own bin, a share in it, 0 above."""
        left, right = self.edges[place, :-1], self.edges[place, 1:]  # B N bins
        value, width = values.unsqueeze(2), right - left
        beyond = (value >= right).to(value.dtype)
        full = torch.where(width > 0, (value - left) / width, beyond)  # many equal values make an empty bin
        return self.projection(full.clamp(0, 1))


NUMBERS = {"linear": LinearNumbers, "mlp": MlpNumbers, "quantile": QuantileNumbers}


def quantile_table(columns: Sequence[Column]) -> Float[Tensor, "C E"]:
    """Quantiles of the standardised numbers; zeros for categorical columns."""
    steps = max((len(column.edges) for column in columns), default=0) or 2
    return torch.tensor([column.edges or (0.0,) * steps for column in columns], dtype=torch.float32)


class CellValues(nn.Module):
    """A cell's value -> a vector; where it stands is not in it.

    Args:
        columns: of the table.
        width: D.
        numbers: how numbers are embedded, see NUMBERS.
    """

    def __init__(self, columns: Sequence[Column], width: int, numbers: str) -> None:
        super().__init__()
        self.kinds = ColumnKinds(columns)
        self.has_numbers = bool(self.kinds.numeric.any())
        self.numbers = NUMBERS[numbers](columns, width) if self.has_numbers else nn.Identity()
        self.categories = nn.Embedding(self.kinds.size, width) if self.kinds.size else None
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
            elif isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)

    def forward(self, values: Float[Tensor, "B N"], place: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Standardised numbers, and numbers of categories in their own columns."""
        if self.categories is None:
            return self.numbers(values, place)
        category = embedding(self.kinds.category(values, place), self.categories.weight)
        if not self.has_numbers:
            return category
        return torch.where(self.kinds.numeric[place].unsqueeze(2), self.numbers(values, place), category)
