"""How a weight follows its gradient: one file a rule."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from mmpt.training.held import Groups, Held, HeldAdamW


class Update(NamedTuple):
    """What moves a weight, and what it remembers of past gradients: tensors of the weight's shape."""

    name: str
    moments: tuple[str, ...]


ADAMW = Update("adamw", ("exp_avg", "exp_avg_sq"))


class Rule(ABC):
    """A choice of updates for the weights of a model."""

    # whether a number's update asks for its own gradient and moments only: ZeRO divides what is beside it
    by_element: ClassVar[bool]

    @abstractmethod
    def update(self, hidden_matrix: bool) -> Update:
        """Of a weight, which may be the matrix of a linear layer inside a block."""

    @abstractmethod
    def optimizer(self, groups: Groups, learning_rate: float, adamw: Callable[[Groups], HeldAdamW]) -> Held:
        """Over groups, each of which has its own `update`, `weight_decay` and `params`.

        Args:
            groups: of one update each, none of them without parameters.
            learning_rate: the peak; every step is given its own.
            adamw: makes AdamW with the recipe's betas and eps.
        """
