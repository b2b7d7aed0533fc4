"""Relative positions from a wide grouped convolution over the tokens themselves (wav2vec 2.0, Baevski et al. 2020)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from mmpt.errors import ConfigError
from mmpt.tokens import Shown, restore


class ConvolutionalPositions(nn.Module):
    """A weight-normed convolution and GELU; what it gives is added to the tokens as their position.

    Its two factors are plain parameters, so that partitioning them needs no special case.

    Args:
        width: D. kernel: tokens that one position looks at. groups: of channels that don't mix; must divide width.
    """

    def __init__(self, width: int, *, kernel: int = 128, groups: int = 16) -> None:
        super().__init__()
        if kernel < 1 or groups < 1 or width % groups:
            raise ConfigError(
                f"kernel, groups: expected a kernel of at least 1 and groups that divide width {width}, "
                f"got {kernel} and {groups}"
            )
        self.kernel, self.groups = kernel, groups
        self.direction = nn.Parameter(torch.randn(width, width // groups, kernel) * (4 / (kernel * width)) ** 0.5)
        self.length = nn.Parameter(self.direction.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def weight(self) -> Float[Tensor, "D C T"]:
        """Weight normalisation for each of the kernel's taps (Salimans and Kingma 2016)."""
        return self.direction * (self.length / self.direction.norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Float[Tensor, "B N D"], valid: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B N D"]:
        """Tokens in their places -> positions; places that are not `valid` count as zeros, whatever stands there."""
        if valid is not None:
            x = torch.where(valid.unsqueeze(2), x, 0.0)
        return gelu(grouped_conv(x, self.weight(), self.groups) + self.bias)

    def settle(self, shown: Shown, size: int) -> Shown:
        """Positions of shown tokens from the shown tokens alone: hidden places, put back among `size`, are zeros."""
        tokens = shown.tokens
        placed = restore(tokens.x, shown, tokens.x.new_zeros(tokens.x.shape[2]), size)
        position = self(placed, None).gather(1, shown.places.unsqueeze(2).expand_as(tokens.x))
        return shown._replace(tokens=tokens._replace(position=tokens.position + position))


def grouped_conv(x: Float[Tensor, "B N D"], weight: Float[Tensor, "D C T"], groups: int) -> Float[Tensor, "B N D"]:
    """`conv1d` padded with half a kernel of zeros, as products of short spectra (overlap-save).

    A kernel of 128 taps costs two to four times less so; a spectrum twice as long as the kernel is the cheapest, as the
    kernel's own is most of the work.
    """
    rows, size, width = x.shape
    taps = weight.shape[2]
    window = 1 << (2 * taps - 1).bit_length()
    step = window - taps + 1
    blocks = -(-size // step)
    padded = pad(x.float(), (0, 0, taps // 2, blocks * step + taps - 1 - size - taps // 2))
    spectra = torch.fft.rfft(padded.unfold(1, window, step))  # B blocks D frequencies
    spectra = spectra.view(rows * blocks, groups, width // groups, -1).permute(3, 1, 0, 2).flatten(0, 1)
    kernel = torch.fft.rfft(weight.float(), window).conj().view(groups, -1, *weight.shape[1:2], window // 2 + 1)
    mixed = torch.bmm(spectra, kernel.permute(3, 0, 2, 1).flatten(0, 1))
    mixed = mixed.view(-1, groups, rows * blocks, width // groups).permute(2, 0, 1, 3).flatten(2)
    signal = torch.fft.irfft(mixed, window, dim=1)[:, :step]
    return signal.reshape(rows, blocks * step, width)[:, :size].to(x.dtype)
