"""Only the largest gradients of every tensor are followed (gradient-mask tuning, Li et al. 2024)."""

from functools import partial

import torch
from torch import Tensor

from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError
from mmpt.finetune.strategies import Strategy
from mmpt.finetune.strategies.full import FullStrategy
from mmpt.model import MaskedModel


def largest(share: float, gradient: Tensor) -> Tensor:
    """The gradient with zeros everywhere but at its int(share * n) largest entries, at least one."""
    count = max(int(share * gradient.numel()), 1)
    chosen = gradient.abs().flatten().topk(count).indices
    flat = torch.zeros_like(gradient).flatten()
    return flat.scatter(0, chosen, gradient.flatten().gather(0, chosen)).view_as(gradient)


class GradientMask(Strategy):
    """Full fine-tuning with masked gradients; the head's are followed whole.

    The gradient is masked, not the update: AdamW's momentum still moves an entry that was chosen before, and weight
    decay moves all. An update is one batch here, so the mask is that of the update's whole gradient; on several ranks
    it would be that of a part, which is another method.

    Args:
        learning_rate, layer_decay: as in `full`.
        keep: share of each tensor's entries.
    """

    ranks = False

    def __init__(self, *, learning_rate: float = 1e-3, layer_decay: float = 0.75, keep: float = 0.2) -> None:
        if not 0 < keep <= 1:
            raise ConfigError(f"keep: expected a share above 0 and up to 1, got {keep}")
        self.learning_rate, self.keep = learning_rate, keep
        self.full = FullStrategy(learning_rate=learning_rate, layer_decay=layer_decay)

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """A hook for every trained tensor of the backbone."""
        self.hooks = [
            p.register_hook(partial(largest, self.keep)) for p in model.backbone.parameters() if p.requires_grad
        ]

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """As in full fine-tuning."""
        return self.full.scales(model)

    def finish(self, model: MaskedModel) -> None:
        """No hooks are left."""
        for hook in self.hooks:
            hook.remove()
