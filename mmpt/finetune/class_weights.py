"""How much each class counts in a loss."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmpt.errors import ConfigError
from mmpt.finetune.classes import name_of

ClassWeights = Literal["balanced"] | Mapping[Any, float] | None


def by_name(given: ClassWeights) -> ClassWeights:
    """As it is, with names as labels have them; raises ConfigError for anything else, and for weights of 0 or less."""
    if given is None or (isinstance(given, str) and given == "balanced"):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(f"class_weights: expected balanced, or a dict of a weight a class, got {given!r}")
    for name, weight in given.items():
        if not 0 < weight < math.inf:
            raise ConfigError(f"class_weights.{name}: expected a positive number, got {weight}")
    return {name_of(name): float(weight) for name, weight in given.items()}


def check_names(given: ClassWeights, classes: Sequence[Any]) -> None:
    """Raises ConfigError for the weight of a class that the training samples don't have."""
    names = [str(name) for name in classes]
    for name in given if isinstance(given, Mapping) else ():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(
                f"class_weights: '{name}' is no class of the training samples, which have "
                f"{', '.join(names[:10])}{advice}"
            )


def class_weights(
    given: ClassWeights, classes: Sequence[Any], counts: Sequence[int], device: torch.device
) -> Float[Tensor, " V"] | None:
    """A weight a class, 1 where none is given; None where all count alike.

    Args:
        given: by name; `balanced` makes every class count as much as every other, as scikit-learn has it.
        classes: by number.
        counts: of each in training.
        device: gets them.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        every = torch.tensor(counts, dtype=torch.float32, device=device)
        return every.sum() / (len(every) * every)
    return torch.tensor([given.get(str(name), 1.0) for name in classes], device=device)
