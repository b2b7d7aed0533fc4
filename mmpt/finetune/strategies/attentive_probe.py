"""A learned query over frozen tokens, and a linear head on what it finds."""

from mmpt.downstream.encoder import Encoder
from mmpt.finetune.strategies import Strategy, freeze_backbone
from mmpt.model import MaskedModel


class AttentiveProbe(Strategy):
    """Attention pool and head; the backbone stays as it is."""

    pool = "attention"

    def __init__(self, *, learning_rate: float = 3e-3) -> None:
        self.learning_rate = learning_rate

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """The backbone stays as it is."""
        freeze_backbone(model)

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """One rate."""
        return {}

    def finish(self, model: MaskedModel) -> None:
        """All layers are plain."""
