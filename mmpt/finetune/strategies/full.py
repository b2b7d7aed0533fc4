"""Everything is trained, lower layers more gently (layer-wise learning-rate decay: Clark et al. 2020, ELECTRA)."""

from mmpt.downstream.encoder import Encoder
from mmpt.finetune.strategies import Strategy
from mmpt.model import MaskedModel


class FullStrategy(Strategy):
    """All weights of backbone and head.

    Args:
        learning_rate: of the head.
        layer_decay: share of the rate of the layer above; 1 is the same rate for all.
    """

    def __init__(self, *, learning_rate: float = 1e-3, layer_decay: float = 0.75) -> None:
        self.learning_rate, self.layer_decay = learning_rate, layer_decay

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """Nothing to freeze."""

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """The head has all of it, the top block and the last norm `layer_decay` of that, encoders the least."""
        names = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
        blocks = "backbone.trunk.blocks."
        numbers = {name: int(name.removeprefix(blocks).split(".")[0]) for name in names if name.startswith(blocks)}
        depth = max(numbers.values(), default=-1) + 1
        above = {name: depth - numbers[name] if name in numbers else depth + 1 for name in names}
        above |= {name: 1 for name in names if name.startswith("backbone.trunk.norm.")}
        return {name: self.layer_decay**steps for name, steps in above.items()}

    def finish(self, model: MaskedModel) -> None:
        """All layers are plain."""
