"""Which weights of frozen layers are kept (Zhao et al. 2020, Masking as an Efficient Alternative to Finetuning)."""

from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError
from mmpt.finetune.kept import AboveThreshold, block_layers, unwrap, wrap
from mmpt.finetune.strategies import Strategy, freeze_backbone
from mmpt.model import MaskedModel


class MaskTuning(Strategy):
    """A binary mask for the linear layers of the upper blocks, and the head; all pretrained weights stay.

    Args:
        learning_rate: of the scores. head_scale: the head's is so many times as large.
        off: share of the weights that begin at 0.
        threshold: above which a weight is kept.
        skip: lowest blocks that are left alone.
    """

    def __init__(
        self,
        *,
        learning_rate: float = 1e-3,
        head_scale: float = 5.0,
        off: float = 0.05,
        threshold: float = 0.01,
        skip: int = 0,
    ) -> None:
        if not 0 <= off < 1 or threshold <= 0:
            raise ConfigError(f"off, threshold: expected a share below 1 and above 0, got {off} and {threshold}")
        if head_scale <= 0 or skip < 0:
            raise ConfigError(f"head_scale, skip: expected above 0 and 0 or more, got {head_scale} and {skip}")
        self.learning_rate, self.head_scale = learning_rate, head_scale
        self.off, self.threshold, self.skip = off, threshold, skip

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """Masks on frozen layers; raises ConfigError where all blocks are skipped."""
        freeze_backbone(model)
        wrap(block_layers(model, first=self.skip), lambda weight: AboveThreshold(weight, self.off, self.threshold))

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """Scores have the rate, the head more."""
        return {name: self.head_scale for name, _ in model.named_parameters() if name.startswith("objective.")}

    def finish(self, model: MaskedModel) -> None:
        """Zeros where weights were not kept."""
        unwrap(block_layers(model, first=self.skip))
