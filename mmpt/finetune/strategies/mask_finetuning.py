"""Which weights of a fitted task are better left out (Mask Fine-Tuning; code: Ming-K9/MFT)."""

from torch import nn

from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError
from mmpt.finetune.kept import LargestScores, Part, block_layers, unwrap, wrap
from mmpt.finetune.strategies import Strategy, freeze_backbone
from mmpt.model import MaskedModel


class MaskFinetuning(Strategy):
    """Scores alone are learned; backbone and head are those of a task that has been fitted before, and stay.

    In every layer the same share is kept, of the largest scores, where `mask_tuning` has a threshold.

    Args:
        learning_rate: of the scores, which begin normal.
        kept: share of each layer's weights; 1 changes nothing.
        part: of the blocks: `attention`, `feedforward` or `both`.
        blocks: the first and the last that is masked, from 0; None: all.
    """

    fitted = True

    def __init__(
        self,
        *,
        learning_rate: float = 1e-2,
        kept: float = 0.9,
        part: Part = "both",
        blocks: tuple[int, int] | None = None,
    ) -> None:
        if not 0 < kept <= 1:
            raise ConfigError(f"kept: expected a share above 0 and up to 1, got {kept}")
        if blocks is not None and not 0 <= blocks[0] <= blocks[1]:
            raise ConfigError(f"blocks: expected the first and the last, from 0, got {blocks[0]} and {blocks[1]}")
        self.learning_rate, self.kept = learning_rate, kept
        self.part: Part = part
        self.first, self.last = blocks or (0, None)

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """Masks on frozen layers, and a frozen head; raises ConfigError where the blocks are not the trunk's."""
        freeze_backbone(model)
        model.objective.requires_grad_(False)
        depth = len(getattr(model.backbone.trunk, "blocks", []))
        if self.last is not None and self.last >= depth:
            raise ConfigError(f"blocks: expected some of 0 to {depth - 1}, got {self.first} and {self.last}")
        wrap(self._layers(model), lambda weight: LargestScores(weight, self.kept))

    def _layers(self, model: MaskedModel) -> list[nn.Linear]:
        return block_layers(model, part=self.part, first=self.first, last=self.last)

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """One rate."""
        return {}

    def finish(self, model: MaskedModel) -> None:
        """Zeros where weights were not kept."""
        unwrap(self._layers(model))
