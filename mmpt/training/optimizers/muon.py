"""Muon for the matrices inside blocks, AdamW for all else (Jordan et al. 2024; Liu et al. 2025, section 2.2)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mmpt.errors import ConfigError
from mmpt.training.held import Groups, Held, HeldAdamW, Together
from mmpt.training.optimizers import ADAMW, Rule, Update


@dataclass(frozen=True, kw_only=True)
class MuonRule(Rule):
    """Momentum made nearly orthogonal by Newton-Schulz steps.

    An update is scaled by 0.2 times the root of the matrix's longer side, after which it is about as large as AdamW's:
    one learning rate and one weight decay are meant for both (Liu et al. 2025, equation 4).

    Args:
        momentum: mu. nesterov: look ahead by it. iterations: Newton-Schulz steps, in bfloat16.
    """

    momentum: float = 0.95
    nesterov: bool = True
    iterations: int = 5
    by_element = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: expected a number from 0 to below 1, got {self.momentum}")
        if not 1 <= self.iterations < 100:
            raise ValueError(f"iterations: expected 1 to 99, got {self.iterations}")

    def update(self, hidden_matrix: bool) -> Update:
        """By place: embeddings, heads, entries of decoders, convolutions, norms and biases are AdamW's."""
        return Update("muon", ("momentum_buffer",)) if hidden_matrix else ADAMW

    def optimizer(self, groups: Groups, learning_rate: float, adamw: Callable[[Groups], HeldAdamW]) -> Held:
        """Both, as one."""
        own = [group for group in groups if group["update"] != ADAMW]
        rest = [group for group in groups if group["update"] == ADAMW]
        if not own:
            raise ConfigError(
                "training.optimizer.rule: muon is for the matrices inside blocks, and none of this model's is trained; "
                "use adamw"
            )
        muon = torch.optim.Muon(
            own,
            lr=learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            ns_steps=self.iterations,
            adjust_lr_fn="match_rms_adamw",
        )
        return Together([muon, adamw(rest)] if rest else [muon])
