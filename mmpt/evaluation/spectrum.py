"""How latents lie in their space: pure functions of matrices and of sums over tokens."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ENERGY = 0.9  # share of the squares that counted directions hold (Meng et al. 2023, MAE-LM, definition of rank_tau)
OUTLYING = 3.0  # deviations
KEPT = 2048  # tokens at least that are kept one by one; four a dimension where that is more


def effective_rank(values: Float[Tensor, " n"]) -> float:
    """Exponential of the entropy of the singular values' shares: 1 if one direction holds all, n if all are alike.

    Roy and Vetterli 2007, definition 1; Garrido et al. 2023 (RankMe). 0 of a matrix of zeros.
    """
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values / total
    return float((-torch.xlogy(shares, shares).sum()).exp())


def energy_rank(values: Float[Tensor, " n"], share: float = ENERGY) -> int:
    """The fewest directions whose squared singular values come to this share of all (MAE-LM, section 3)."""
    squares = values.sort(descending=True).values ** 2
    if squares.sum() <= 0:
        return 0
    return int((squares.cumsum(0) < share * squares.sum() * (1 - 1e-12)).sum()) + 1


def singular_values(matrix: Float[Tensor, "n D"]) -> Float[Tensor, " _"]:
    """In float64, by the smaller of the two Gram matrices."""
    x = matrix.double()
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)


def numeric_rank(matrix: Float[Tensor, "n P"]) -> int:
    """Singular values above what float32 arithmetic leaves of zeros."""
    values = torch.linalg.svdvals(matrix.double())
    largest = float(values.max()) if len(values) else 0.0
    return int((values > largest * max(matrix.shape) * torch.finfo(torch.float32).eps).sum())


def outlier_dimensions(mean: Float[Tensor, " D"]) -> dict[int, float]:
    """Dimensions whose mean lies more than 3 deviations from the mean of all, and how many (Luo et al. 2021).

    Of fewer than 11 dimensions none can.
    """
    spread = mean.std(correction=0)
    if spread <= 1e-12 * mean.abs().max().clamp(min=1e-300):
        return {}
    z = (mean - mean.mean()) / spread
    return {int(dim): float(z[dim]) for dim in (z.abs() > OUTLYING).nonzero()[:, 0]}


def units(x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    """Vectors of length 1; zeros stay."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-300)


def mean_cosine(x: Float[Tensor, "n D"]) -> float | None:
    """Mean cosine of two different vectors; None of fewer than two. Vectors of zeros count as at right angles."""
    return _pairs(units(x.double()).sum(0), len(x))


def _pairs(total: Float[Tensor, " D"], count: int) -> float | None:
    """From the sum of unit vectors: its square is the sum of all cosines, with each vector's own."""
    return None if count < 2 else (float(total @ total) - count) / (count * (count - 1))


def row_cosines(x: Float[Tensor, "B N D"], chosen: Bool[Tensor, "B N"]) -> tuple[float, int]:
    """Sum over rows of the mean cosine of two of a row's chosen tokens, and how many rows have two."""
    counts = chosen.sum(1)
    totals = torch.where(chosen.unsqueeze(2), units(x.double()), 0.0).sum(1)
    several = counts > 1
    squares, n = totals.square().sum(1)[several], counts[several].double()
    return float(((squares - n) / (n * (n - 1))).sum()), int(several.sum())


def linear_shortcut(own: Float[Tensor, "n D"], last: Float[Tensor, "n D"]) -> tuple[float, float] | None:
    """R2 on every other token of a linear map from a block's latents to the last ones, and of no map at all.

    Least squares without intercept, fitted on the other half (Din et al. 2023, section 3). None where there are fewer
    than two tokens a dimension to fit on.
    """
    fit, judge = (own[::2].double(), last[::2].double()), (own[1::2].double(), last[1::2].double())
    if len(fit[0]) < 2 * own.shape[1]:
        return None
    weights = torch.linalg.lstsq(*fit, driver="gelsd").solution
    return _determined(judge[0] @ weights, judge[1]), _determined(judge[0], judge[1])


def _determined(guess: Float[Tensor, "n D"], true: Float[Tensor, "n D"]) -> float:
    around = (true - true.mean(0)).square().sum()
    return 1 - float((true - guess).square().sum() / around.clamp(min=1e-300))


class Moments:
    """Sums over any number of tokens, in float64 on the host, and the first few thousand tokens themselves.

    Args:
        width: D.
        keep: whether tokens are kept, too.
    """

    def __init__(self, width: int, *, keep: bool = True) -> None:
        self.count = 0
        self._room = max(KEPT, 4 * width) if keep else 0
        self.total, self.unit_total = (torch.zeros(width, dtype=torch.float64) for _ in range(2))
        self.gram = torch.zeros(width, width, dtype=torch.float64)
        self._kept: list[Tensor] = []
        self._places: list[Tensor] = []

    def add(self, x: Float[Tensor, "n D"], place: Int[Tensor, " n"]) -> None:
        """More tokens, and where they stood in their rows."""
        if self._room > 0:
            self._kept.append(x[: self._room].float().cpu())
            self._places.append(place[: self._room].cpu())
            self._room -= len(self._kept[-1])
        x = x.cpu().double()
        self.count += len(x)
        self.total += x.sum(0)
        self.unit_total += units(x).sum(0)
        self.gram += x.T @ x

    @property
    def kept(self) -> Float[Tensor, "n D"]:
        """The tokens that were kept."""
        return torch.cat(self._kept) if self._kept else torch.zeros(0, len(self.total))

    @property
    def mean(self) -> Float[Tensor, " D"]:
        """Of every dimension."""
        return self.total / max(self.count, 1)

    @property
    def values(self) -> Float[Tensor, " D"]:
        """Singular values of all tokens stacked, largest first."""
        return torch.linalg.eigvalsh(self.gram).clamp(min=0).sqrt().flip(0)

    @property
    def anisotropy(self) -> float | None:
        """Mean cosine of two tokens, of whichever rows."""
        return _pairs(self.unit_total, self.count)

    def outside(self, other: "Moments") -> float | None:
        """Share of these tokens' squares outside the directions that hold 90 % of the other ones'."""
        energy = float(self.gram.trace())
        if energy <= 0 or not other.count:
            return None
        directions = torch.linalg.eigh(other.gram).eigenvectors[:, -energy_rank(other.values) :]
        return max(0.0, 1 - float((directions.T @ self.gram @ directions).trace()) / energy)

    def with_place(self, dim: int) -> float:
        """Correlation of a dimension with the place in the row, over the kept tokens; 0 where either is constant."""
        pair = torch.stack([self.kept[:, dim].double(), torch.cat(self._places).double()])
        if len(self.kept) < 2 or (pair.std(1, correction=0) <= 0).any():
            return 0.0
        return float(torch.corrcoef(pair)[0, 1])
