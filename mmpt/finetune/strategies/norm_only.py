"""Scales and shifts of the norms alone (Tuning LayerNorm in Attention, Zhao et al. 2023)."""

from torch import nn

from mmpt.downstream.encoder import Encoder
from mmpt.finetune.strategies import Strategy, freeze_backbone
from mmpt.model import MaskedModel


class NormOnly(Strategy):
    """LayerNorms of encoders and trunk, and the head."""

    def __init__(self, *, learning_rate: float = 1e-2) -> None:
        self.learning_rate = learning_rate

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """All but the norms stays as it is."""
        freeze_backbone(model)
        for module in model.backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """One rate."""
        return {}

    def finish(self, model: MaskedModel) -> None:
        """All layers are plain."""
