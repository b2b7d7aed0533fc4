"""Lion for every weight: the sign of a momentum (Chen et al. 2023, algorithm 2)."""

from collections.abc import Callable
from dataclasses import dataclass

from timm.optim.lion import Lion

from mmpt.training.held import Groups, Held, HeldAdamW
from mmpt.training.optimizers import Rule, Update


class _HeldLion(Held, Lion):
    """Timm's, that may be held."""


@dataclass(frozen=True, kw_only=True)
class LionRule(Rule):
    """Every number moves by the whole learning rate, which is why the paper takes a third to a tenth of AdamW's.

    Weight decay is multiplied by the learning rate, so the same strength wants three to ten times AdamW's.

    Args:
        betas: the first mixes the momentum with the gradient for the step, the second for what is remembered.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    by_element = True

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: expected two numbers from 0 to below 1, got {list(self.betas)}")

    def update(self, hidden_matrix: bool) -> Update:
        """The same for all."""
        return Update("lion", ("exp_avg",))

    def optimizer(self, groups: Groups, learning_rate: float, adamw: Callable[[Groups], HeldAdamW]) -> Held:
        """One Lion."""
        return _HeldLion(groups, lr=learning_rate, betas=self.betas)
