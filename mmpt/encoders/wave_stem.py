"""The convolutional stem of wav2vec 2.0 and HuBERT (Baevski et al. 2020; Hsu et al. 2021) over rows laid end to end."""

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from mmpt.encoders.row_norm import RowNorm

EPS = 1e-5  # of every norm of the stem


def window_of(stem: Sequence[tuple[int, int]]) -> int:
    """Samples that one frame looks at: the receptive field of (kernel, stride) layers."""
    window = 1
    for kernel, stride in reversed(stem):
        window = (window - 1) * stride + kernel
    return window


def hop_of(stem: Sequence[tuple[int, int]]) -> int:
    """Samples from one frame to the next."""
    return prod(stride for _, stride in stem)


class _Conv(torch.autograd.Function):
    """Convolution in time as products of plain views: the strided input is neither copied nor transposed."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "T C"], weight: Float[Tensor, "P D"], stride: int) -> Float[Tensor, "R D"]:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        first, *others = _taps(x, weight, stride)
        y = first[0] @ first[1]
        for taken, part in others:
            y.addmm_(taken, part)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        views = list(zip(_taps(x, weight, ctx.stride), _taps(dx, dweight, ctx.stride), strict=True))
        gaps = len(weight) < ctx.stride * x.shape[1]
        dx[0 if gaps else len(grad) * ctx.stride :] = 0.0  # the rest is written by the first product
        for number, ((taken, part), (dtaken, dpart)) in enumerate(views):
            torch.mm(taken.t(), grad, out=dpart)
            if number:
                dtaken.addmm_(grad, part.t())
            else:
                torch.mm(grad, part.t(), out=dtaken)
        return dx, dweight, None


def _taps(x: Float[Tensor, "T C"], weight: Float[Tensor, "P D"], stride: int) -> list[tuple[Tensor, Tensor]]:
    """Views of the input, no two samples of one overlapping, each with its rows of the weight."""
    size, channels = x.shape
    kernel = len(weight) // channels
    outputs = (size - kernel) // stride + 1
    views = []
    for first in range(0, kernel, stride):
        numbers = channels * min(stride, kernel - first)
        offset = x.storage_offset() + first * channels
        taken = x.as_strided((outputs, numbers), (stride * channels, 1), offset)
        views.append((taken, weight[first * channels : first * channels + numbers]))
    return views


def _autocast_dtype(x: Tensor) -> torch.dtype:
    """What autocast would have a product computed in; it doesn't look into a function with its own backward."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class ConvLayer(nn.Module):
    """Convolution in time without padding, a norm, GELU; T x C, so that norms and products need no transposes."""

    def __init__(
        self, inputs: int, channels: int, kernel: int, stride: int, *, bias: bool, norm: nn.Module | None
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        std = (2 / (kernel * inputs)) ** 0.5  # Kaiming normal
        self.weight = nn.Parameter(torch.randn(kernel * inputs, channels) * std)
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.norm = norm

    def forward(self, x: Float[Tensor, "T C"], rows: int, counts: Int[Tensor, " B"] | int) -> Float[Tensor, "R D"]:
        """`rows` lie end to end in x, `counts` of each one's outputs are its own: what a norm over time looks at."""
        if isinstance(self.norm, RowNorm):  # of the first layer alone
            weight = self.weight if self.bias is None else self.weight + 0.0 * self.bias  # the norm takes it out again
            return gelu(self.norm(self._windows(x).unflatten(0, (rows, -1)), weight, counts).flatten(0, 1))
        if x.shape[1] == 1:
            y = self._windows(x) @ self.weight
        else:
            dtype = _autocast_dtype(x)
            y = cast("Tensor", _Conv.apply(x.to(dtype), self.weight.to(dtype), self.stride))
        if self.bias is not None:
            y = y + self.bias
        if self.norm is not None:
            y = self.norm(y)
        return gelu(y)

    def _windows(self, x: Float[Tensor, "T 1"]) -> Float[Tensor, "R P"]:
        return x[:, 0].unfold(0, self.kernel, self.stride)


class WaveStem(nn.Module):
    """Windows of sound -> one vector a frame; every sample goes through the convolutions once.

    Rows lie end to end in one sequence, each with room behind its last frame for what fills that frame, so that neither
    padding nor the next row reaches a frame that is valid.
    """

    def __init__(
        self, stem: Sequence[tuple[int, int]], channels: int, *, bias: bool, norm: Literal["layer", "group"]
    ) -> None:
        super().__init__()
        self.stem, self.hop, self.window = tuple(stem), hop_of(stem), window_of(stem)
        self.extra = -(-(self.window - self.hop) // self.hop)  # hops behind the last frame of a row
        self.layers = nn.ModuleList(
            ConvLayer(channels if number else 1, channels, kernel, stride, bias=bias, norm=own)
            for number, ((kernel, stride), own) in enumerate(zip(stem, self._norms(norm, channels), strict=True))
        )

    def _norms(self, norm: Literal["layer", "group"], channels: int) -> list[nn.Module | None]:
        if norm == "layer":
            return [nn.LayerNorm(channels, eps=EPS) for _ in self.stem]
        return [RowNorm(channels, EPS), *[None for _ in self.stem[1:]]]

    def forward(self, windows: Float[Tensor, "B N T"], valid: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N C"]:
        """Overlapping windows, zeros in padding, which is behind what is `valid`; None: all of them are."""
        rows, size, _ = windows.shape
        frames = size if valid is None else valid.sum(1)
        kernel, stride = self.stem[0]
        counts = (self.hop * (frames - 1) + self.window - kernel) // stride + 1
        hops = self._hops(windows, frames)
        x = pad(hops.view(-1), (0, kernel - stride)).unsqueeze(1)  # so that the first layer's rows are of one length
        for layer in self.layers:
            x = layer(x, rows, counts)
        slot = torch.arange(rows, device=x.device).unsqueeze(1) * hops.shape[1] + torch.arange(size, device=x.device)
        return x[slot]

    def _hops(self, windows: Float[Tensor, "B N T"], frames: Int[Tensor, " B"] | int) -> Float[Tensor, "B K hop"]:
        """The waveforms: the first hop of every window, and behind a row's last one the rest of it."""
        rows, size, _ = windows.shape
        hops = windows.new_zeros(rows, size + self.extra, self.hop)
        hops[:, :size] = windows[:, :, : self.hop]
        if self.extra:
            row = torch.arange(rows, device=windows.device)
            last = torch.zeros_like(row) + frames - 1
            last = last.clamp(min=0)  # of a row without a frame
            tail = pad(windows[row, last, self.hop :], (0, (1 + self.extra) * self.hop - self.window))
            behind = last.unsqueeze(1) + 1 + torch.arange(self.extra, device=windows.device)
            hops[row.unsqueeze(1), behind] = tail.view(rows, self.extra, self.hop)
        return hops
