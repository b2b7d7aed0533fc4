"""AdamW for every weight (Loshchilov and Hutter 2017, algorithm 2)."""

from collections.abc import Callable

from mmpt.training.held import Groups, HeldAdamW
from mmpt.training.optimizers import ADAMW, Rule, Update


class AdamWRule(Rule):
    """Torch's, fused."""

    by_element = True

    def update(self, hidden_matrix: bool) -> Update:
        """The same for all."""
        return ADAMW

    def optimizer(self, groups: Groups, learning_rate: float, adamw: Callable[[Groups], HeldAdamW]) -> HeldAdamW:
        """One AdamW."""
        return adamw(groups)
