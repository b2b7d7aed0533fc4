"""The norm over time of a map's outputs is GroupNorm's, though no output is looked at."""

import pytest
import torch
from torch.nn import Parameter
from torch.nn.functional import group_norm
from torch.testing import assert_close

from mmpt.encoders.row_norm import RowNorm

TAPS, CHANNELS = 10, 6


def smooth_windows(rows: int, steps: int) -> torch.Tensor:
    """Windows of slow waves: neighbouring samples are nearly equal."""
    time = torch.arange(rows * (5 * (steps - 1) + TAPS)).view(rows, -1)
    return (100 * torch.sin(time / 400) + 0.01 * torch.sin(time / 7)).unfold(1, TAPS, 5)


def norm_and_weight() -> tuple[RowNorm, Parameter]:
    """Half of the channels look at differences of neighbours alone, where the variance is small."""
    torch.manual_seed(0)
    weight = torch.randn(TAPS, CHANNELS)
    weight[:, ::2] = torch.tensor([1.0, -1.0] + [0.0] * (TAPS - 2)).unsqueeze(1)
    norm = RowNorm(CHANNELS)
    norm.weight.data.uniform_(0.5, 1.5)
    norm.bias.data.normal_()
    return norm, Parameter(weight)


def true_norm(norm: RowNorm, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """In float64."""
    y = (x.double() @ weight.double()).transpose(1, 2)
    return group_norm(y, CHANNELS, norm.weight.double(), norm.bias.double(), norm.eps).transpose(1, 2)


@pytest.mark.parametrize("counts", [400, torch.tensor([400, 400])])
def test_values_and_gradients_are_those_of_group_norm(counts):
    norm, weight = norm_and_weight()
    x, slope = smooth_windows(2, 400), torch.randn(2, 400, CHANNELS)
    trained = [weight, norm.weight, norm.bias]
    mine, true = norm(x, weight, counts), true_norm(norm, x, weight)
    assert_close(mine, true.float(), rtol=1e-5, atol=1e-3)
    ours = torch.autograd.grad((mine * slope).sum(), trained)
    theirs = torch.autograd.grad((true * slope).sum(), trained)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, rtol=5e-3, atol=1e-3)


def test_what_stands_behind_a_row_changes_nothing_of_it():
    norm, weight = norm_and_weight()
    x = smooth_windows(2, 40)
    alone = norm(x[1:, :25], weight, 25)
    padded = torch.cat([x[:, :25], torch.full_like(x[:, 25:], 1e6)], dim=1)
    beside = norm(torch.cat([x[:1], padded[1:]]), weight, torch.tensor([40, 25]))
    assert_close(beside[1:, :25], alone, rtol=1e-5, atol=1e-5)


def test_a_row_without_a_step_is_finite():
    norm, weight = norm_and_weight()
    assert norm(smooth_windows(2, 4), weight, torch.tensor([0, 4])).isfinite().all()
