"""Scales and shifts of the norms alone (Tuning LayerNorm in Attention, Zhao et al. 2023)."""

from typing import Literal

from torch import nn

from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError
from mmpt.finetune.folding import fold, foldable
from mmpt.finetune.strategies import Strategy, freeze_backbone
from mmpt.model import Backbone, MaskedModel

Extra = Literal["encoders", "stream_embedding"]


class NormOnly(Strategy):
    """LayerNorms of the trunk and of the task's encoders, and the head.

    Args:
        learning_rate: of all that is trained.
        extras: what is trained besides: all of the task's `encoders` (the paper's input embedding and connector), and
            the trunk's `stream_embedding`; both together fit a new modality to a trunk that stays.
        fold: at the end the blocks' scales and shifts become part of the linear layers behind them.
    """

    def __init__(self, *, learning_rate: float = 1e-2, extras: tuple[Extra, ...] = (), fold: bool = False) -> None:
        self.learning_rate, self.extras, self.fold = learning_rate, extras, fold

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """All else stays as it is; raises ConfigError for extras without weights, norms that can't be folded."""
        if self.fold:
            foldable(model.backbone.trunk)
        norms = [module for module in model.backbone.modules() if isinstance(module, nn.LayerNorm)]
        chosen = [*norms, *(_extra(model.backbone, name) for name in self.extras)]
        trained = [p for module in chosen for p in module.parameters() if p.requires_grad]  # not of unused encoders
        freeze_backbone(model)
        for parameter in trained:
            parameter.requires_grad_(True)

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """One rate."""
        return {}

    def finish(self, model: MaskedModel) -> None:
        """All layers are plain; norms are folded if that was asked for."""
        if self.fold:
            fold(foldable(model.backbone.trunk))


def _extra(backbone: Backbone, name: Extra) -> nn.Module:
    part = backbone.encoders if name == "encoders" else getattr(backbone.trunk, name, None)
    if part is None or not any(p.requires_grad for p in part.parameters()):
        raise ConfigError(f"extras: '{name}' has no weights here; leave it out")
    return part
