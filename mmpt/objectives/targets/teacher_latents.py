"""What an averaged teacher makes of the complete row, by regression (data2vec, Baevski et al. 2022, section 3.3)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import layer_norm, mse_loss, smooth_l1_loss

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.targets import Target
from mmpt.tokens import Content, StreamContext

EPS = 1e-5


class TeacherLatentsTarget(Target):
    """Mean over the teacher's last blocks of what their feed-forwards give, before it is added to the token.

    Args:
        layers: how many of the last blocks; the paper has 8 of 12 for speech, 10 for text and 6 for images.
        norm: of every block's output before the mean: `instance` standardises each of its D numbers over the observed
            tokens of a document (the paper's choice for speech), `layer` each token over its D numbers (for text).
        beta: where the smooth L1 loss turns from a parabola to a line; 0 is the squared error.
    """

    latent = True

    def __init__(
        self,
        modality: Modality,
        width: int,
        *,
        layers: int,
        norm: Literal["instance", "layer", "none"] = "instance",
        beta: float = 0.0,
    ) -> None:
        super().__init__()
        if layers < 1 or beta < 0:
            raise ConfigError(f"layers, beta: expected 1 or more and 0 or more, got {layers} and {beta}")
        self.size, self.layers, self.norm, self.beta = width, layers, norm, beta

    def forward(self, context: StreamContext) -> Float[Tensor, "B N D"]:
        """In float32."""
        if context.taught is None:
            raise ConfigError("target 'teacher_latents' needs a teacher's latents in its context")
        taught = context.taught.float()
        if self.norm == "layer":
            taught = layer_norm(taught, (self.size,), eps=EPS)
        elif self.norm == "instance":
            taught = torch.stack([instance_norm(x, context.content, context.maskable) for x in taught])
        return taught.mean(dim=0)

    def loss(self, prediction: Float[Tensor, "M D"], target: Float[Tensor, "M D"]) -> Float[Tensor, " M"]:
        """Sum over the D numbers, divided by the root of D."""
        prediction = prediction.float()
        if self.beta:
            error = smooth_l1_loss(prediction, target, reduction="none", beta=self.beta)
        else:
            error = mse_loss(prediction, target, reduction="none")
        return error.sum(dim=1) / self.size**0.5


def instance_norm(x: Float[Tensor, "B N D"], content: Content, counted: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
    """Mean 0 and variance 1 of each number over the counted tokens of its document; other tokens go along."""
    if content.full and content.observed_count == x.shape[1]:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return (x - mean) / (variance + EPS).sqrt()
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 products would lose the small differences
        return _by_document(x, content, counted)


def _by_document(x: Float[Tensor, "B N D"], content: Content, counted: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
    same = (content.segment.unsqueeze(2) == content.segment.unsqueeze(1)) & counted.unsqueeze(1)
    share = same.to(x.dtype) / same.sum(dim=2, keepdim=True).clamp(min=1)  # B N N
    # what stands in padding may not be a number, and 0 times it isn't one either
    known = torch.where(counted.unsqueeze(2), x, 0.0)
    mean = share @ known
    # the difference is taken at the tokens themselves: E(x^2) - E(x)^2 would lose what is small beside the mean
    centred = torch.where(counted.unsqueeze(2), known - mean, 0.0)
    variance = share @ centred.square()
    return (x - mean) / (variance + EPS).sqrt()
