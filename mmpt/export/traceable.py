"""The same backbone in operations that a graph can hold: no sizes that data decide, no spectra, no strided views.

Parts that training computes in a cleverer way are put in again in a plainer one, with the same weights; all else is
traced as it is. What differs is rounding alone, and the certificate says how much.
"""

from copy import deepcopy
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import conv1d, gelu, linear, one_hot

from mmpt.encoders.row_norm import RowNorm
from mmpt.encoders.wave_stem import ConvLayer, WaveStem
from mmpt.model import Backbone
from mmpt.tokens import Shown
from mmpt.trunk import Surroundings
from mmpt.trunk.conv_positions import ConvolutionalPositions
from mmpt.trunk.feedforward import FeedForward
from mmpt.trunk.feedforward.routed_experts import RoutedExperts
from mmpt.trunk.gating import choose, combine_weights


def traceable(backbone: Backbone) -> Backbone:
    """A copy for tracing, in eval mode, with the backbone's latents."""
    plain = {WaveStem: PlainStem, ConvolutionalPositions: PlainPositions, RoutedExperts: PlainExperts}
    copy = deepcopy(backbone).eval().requires_grad_(False)
    for parent in list(copy.modules()):
        for name, part in list(parent.named_children()):
            if type(part) in plain:
                setattr(parent, name, plain[type(part)](cast("WaveStem", part)))
    return copy


class PlainStem(nn.Module):
    """A wave stem that computes every window by itself: overlaps twice, and no rows laid end to end."""

    def __init__(self, stem: WaveStem) -> None:
        super().__init__()
        self.stem = stem
        self.new = stem.hop // stem.stem[0][1]  # of the first layer's outputs, those that the next window lacks

    def forward(self, windows: Float[Tensor, "B N T"], valid: Bool[Tensor, "B N"]) -> Float[Tensor, "B N C"]:
        """As WaveStem has it."""
        first, *others = (cast("ConvLayer", layer) for layer in self.stem.layers)
        steps = windows.unfold(2, first.kernel, first.stride)  # B N T P
        if isinstance(first.norm, RowNorm):
            x = gelu(self._normed(steps, first.weight, first.norm, valid))
        else:
            x = _finished(steps @ first.weight, first)
        x = x.flatten(0, 1)
        for layer in others:
            taps = layer.weight.unflatten(0, (layer.kernel, -1)).permute(2, 1, 0)
            x = _finished(conv1d(x.transpose(1, 2), taps, stride=layer.stride).transpose(1, 2), layer)
        return x.view(*windows.shape[:2], -1)

    def _normed(
        self, steps: Float[Tensor, "B N T P"], weight: Float[Tensor, "P C"], norm: RowNorm, valid: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "B N T C"]:
        """Every step of a row counts once: those of the window that has it first, and all of the last window."""
        following = torch.cat([valid[:, 1:], torch.zeros_like(valid[:, :1])], dim=1)
        own = torch.arange(steps.shape[2], device=steps.device) < self.new
        counted = (valid.unsqueeze(2) & (own | ~following.unsqueeze(2))).unsqueeze(3)
        total = counted.sum((1, 2)).clamp(min=1).unsqueeze(2)  # B 1 1
        wide = steps.double()
        mean = torch.where(counted, wide, 0.0).sum((1, 2)).unsqueeze(1) / total  # B 1 P
        centred = torch.where(counted, wide - mean.unsqueeze(1), 0.0).flatten(1, 2)
        covariance = centred.transpose(1, 2) @ centred / total
        variance = ((covariance @ weight.double()) * weight.double()).sum(1)
        scale = (variance + norm.eps).rsqrt().to(weight.dtype) * norm.weight  # B C
        scaled = weight * scale.unsqueeze(1)
        shift = norm.bias - (mean.transpose(1, 2) * scaled).sum(1).to(weight.dtype)
        return steps @ scaled.unsqueeze(1) + shift[:, None, None]


def _finished(y: Float[Tensor, "*steps C"], layer: ConvLayer) -> Float[Tensor, "*steps C"]:
    y = y if layer.bias is None else y + layer.bias
    return gelu(y if layer.norm is None else layer.norm(y))


class PlainPositions(nn.Module):
    """Convolutional positions by a convolution, where every token is shown."""

    def __init__(self, positions: ConvolutionalPositions) -> None:
        super().__init__()
        self.groups = positions.groups
        self.weight = nn.Parameter(positions.weight().detach(), requires_grad=False)
        self.bias = positions.bias

    def settle(self, shown: Shown, size: int) -> Shown:
        """As ConvolutionalPositions has it."""
        tokens = shown.tokens
        x = torch.where(tokens.valid.unsqueeze(2), tokens.x, 0.0).transpose(1, 2)
        summed = conv1d(x, self.weight, padding=self.weight.shape[2] // 2, groups=self.groups)[:, :, :size]
        position = gelu(summed.transpose(1, 2) + self.bias)
        return shown._replace(tokens=tokens._replace(position=tokens.position + position))


class PlainExperts(FeedForward):
    """Routed experts with no routing: every expert computes every token, and weighs nothing where it was not chosen."""

    def __init__(self, routed: RoutedExperts) -> None:
        super().__init__()
        self.routed = routed

    def forward(self, x: Float[Tensor, "B S D"], around: Surroundings) -> tuple[Float[Tensor, "B S D"], None]:
        """As RoutedExperts has it in eval mode."""
        routed, tokens = self.routed, x.flatten(0, 1)
        biased = tokens
        if routed.stream_vector is not None:
            biased = tokens + routed.stream_vector(around.stream.flatten())
        logits = linear(biased.float(), routed.gate.weight.float())
        if routed.k > 1:
            gates, experts = choose(logits, routed.k, None)
        else:  # a graph has no best of none
            gates = logits.softmax(1)
            experts = gates.argmax(1).unsqueeze(0)
        weights = combine_weights(gates, experts, around.valid.flatten().expand_as(experts))
        shares = (one_hot(experts, routed.count) * weights.unsqueeze(2)).sum(0)  # tokens E
        entering = biased if routed.biased_experts else tokens
        made = [expert(entering) * shares[:, n : n + 1] for n, expert in enumerate(routed.experts.values())]
        return torch.stack(made).sum(0).to(x.dtype).view_as(x), None
