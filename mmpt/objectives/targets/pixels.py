"""The pixels of the hidden patches, by mean squared error (MAE, He et al. 2021, section 3)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.image import Image, normalise
from mmpt.errors import ConfigError
from mmpt.objectives.targets import Target
from mmpt.tokens import StreamContext


class PixelsTarget(Target):
    """P numbers a patch: values of mean 0 and standard deviation 1 over the data set.

    Args:
        normalize: standardise every patch by its own mean and unbiased variance, as MAE's better half does.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, modality: Modality, *, normalize: bool = True) -> None:
        super().__init__()
        if not isinstance(modality, Image):
            raise ConfigError("target 'pixels' has a meaning for images only; use token_ids for text")
        mean, std = modality.normalisation()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.size = modality.patch_numbers
        self.normalize = normalize

    def forward(self, context: StreamContext) -> Float[Tensor, "B N P"]:
        """Patches by row, column, channel; the class token's are meaningless and never scored."""
        patches = normalise(context.content.values, self.mean, self.std)
        if not self.normalize:
            return patches
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def loss(self, prediction: Float[Tensor, "M P"], target: Float[Tensor, "M P"]) -> Float[Tensor, " M"]:
        """Mean over a patch's numbers."""
        return (prediction.float() - target).square().mean(dim=1)
