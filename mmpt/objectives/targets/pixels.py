"""The pixels of the hidden patches, by mean squared error (MAE, He et al. 2021; VideoMAE, Tong et al. 2022)."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.image import Image, normalise
from mmpt.encoders.video import Video
from mmpt.errors import ConfigError
from mmpt.objectives.targets import Target
from mmpt.tokens import StreamContext


class PixelsTarget(Target):
    """P numbers a patch or tubelet: values of mean 0 and standard deviation 1 over the data set.

    Args:
        normalize: standardise every patch by its own mean and unbiased variance, as MAE's better half does; a tubelet
            channel by channel, as VideoMAE does.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, modality: Modality, *, normalize: bool = True) -> None:
        super().__init__()
        if not isinstance(modality, Image | Video):
            raise ConfigError("target 'pixels' has a meaning for images and video only; use token_ids for text")
        mean, std = modality.normalisation()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.size = modality.patch_numbers
        self.normalize, self.by_channel = normalize, isinstance(modality, Video)

    def forward(self, context: StreamContext) -> Float[Tensor, "B N P"]:
        """Patches by (frame,) row, column, channel; a class token's are meaningless and never scored."""
        if self.normalize and self.by_channel:
            return by_channel(context.content.values)
        patches = normalise(context.content.values, self.mean, self.std)
        if not self.normalize:
            return patches
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def loss(self, prediction: Float[Tensor, "M P"], target: Float[Tensor, "M P"]) -> Float[Tensor, " M"]:
        """Mean over a patch's numbers."""
        return (prediction.float() - target).square().mean(dim=1)


def by_channel(patches: UInt8[Tensor, "*rows P"]) -> Float[Tensor, "*rows P"]:
    """Each channel of a patch by its own mean and unbiased deviation, of values in [0, 1], as VideoMAE has it."""
    mean, scale = channel_scale(patches)
    return ((patches.unflatten(-1, (-1, 3)) / 255 - mean) / scale).flatten(-2)


def channel_scale(
    patches: UInt8[Tensor, "*rows P"],
) -> tuple[Float[Tensor, "*rows 1 3"], Float[Tensor, "*rows 1 3"]]:
    """What is taken off each channel, and what the rest is divided by."""
    pixels = patches.unflatten(-1, (-1, 3)) / 255
    mean = pixels.mean(dim=-2, keepdim=True)
    # by hand: torch's own warns where there is no patch at all
    variance = (pixels - mean).square().sum(dim=-2, keepdim=True) / (pixels.shape[-2] - 1)
    return mean, variance.sqrt() + 1e-6
