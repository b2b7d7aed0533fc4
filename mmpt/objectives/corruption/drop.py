"""Hidden tokens are left out: the trunk works on the rest alone (MAE, He et al. 2021; MAE-LM, Meng et al. 2023)."""

from jaxtyping import Bool
from torch import Tensor

from mmpt.objectives.corruption import Corruption
from mmpt.tokens import Shown, StreamContext, Tokens, drop


class DropCorruption(Corruption):
    """Nothing is shown."""

    drops = True

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, tokens: Tokens, hidden: Bool[Tensor, "B N"], context: StreamContext) -> Shown:
        """K = N - hidden where the ratio fixes it; else the largest of the batch, padded."""
        return drop(tokens, hidden, context.hidden_count)
