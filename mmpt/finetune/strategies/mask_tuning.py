"""Which weights of frozen layers are kept (Zhao et al. 2020, Masking as an Efficient Alternative to Finetuning)."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError
from mmpt.finetune.strategies import Strategy, freeze_backbone
from mmpt.model import MaskedModel


class _Step(torch.autograd.Function):
    """1 above the threshold; the gradient passes as if there were no step."""

    @staticmethod
    def forward(ctx: object, scores: Tensor, threshold: float) -> Tensor:
        """Zeros and ones."""
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        """Straight through."""
        return gradients[0], None


class _Kept(nn.Module):
    """Weight -> weight times a learned 0 or 1.

    Args:
        weight: of the layer. off: share that begins at 0. threshold: of the scores.
    """

    def __init__(self, weight: Tensor, off: float, threshold: float) -> None:
        super().__init__()
        scores = torch.empty_like(weight).uniform_(1.1 * threshold, 1.5 * threshold).flatten()
        chosen = torch.randperm(weight.numel(), device=weight.device)[: int(off * weight.numel())]
        scores[chosen] = torch.empty_like(scores[chosen]).uniform_(0.5 * threshold, 0.9 * threshold)
        self.scores = nn.Parameter(scores.view_as(weight))
        self.threshold = threshold

    def forward(self, weight: Tensor) -> Tensor:
        """The gradient of the scores is that of the kept weight times the weight."""
        return weight * _Step.apply(self.scores, self.threshold)  # type: ignore[no-untyped-call]


class MaskTuning(Strategy):
    """A binary mask for the linear layers of the upper blocks, and the head; all pretrained weights stay.

    Scores begin on both sides of the threshold and close to it (the source's double uniform): far from it, steps of a
    usual size would never flip one. Drawn without replacement, so that the share that begins at 0 is exact.

    Args:
        learning_rate: of scores and head.
        off: share of the weights that begin at 0.
        threshold: above which a weight is kept.
        skip: lowest blocks that are left alone.
    """

    def __init__(
        self, *, learning_rate: float = 1e-3, off: float = 0.05, threshold: float = 0.01, skip: int = 0
    ) -> None:
        if not 0 <= off < 1 or threshold <= 0:
            raise ConfigError(f"off, threshold: expected a share below 1 and above 0, got {off} and {threshold}")
        self.learning_rate, self.off, self.threshold, self.skip = learning_rate, off, threshold, skip

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """Masks on frozen layers."""
        freeze_backbone(model)
        for layer in self._layers(model):
            register_parametrization(layer, "weight", _Kept(layer.weight.detach(), self.off, self.threshold))

    def _layers(self, model: MaskedModel) -> list[nn.Linear]:
        blocks = list(getattr(model.backbone.trunk, "blocks", []))[self.skip :]
        return [module for block in blocks for module in block.modules() if isinstance(module, nn.Linear)]

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """One rate."""
        return {}

    def finish(self, model: MaskedModel) -> None:
        """Zeros where weights were not kept."""
        for layer in self._layers(model):
            if is_parametrized(layer, "weight"):
                remove_parametrizations(layer, "weight", leave_parametrized=True)
