"""Embeddings that may be cut: any layer, any width (2-D Matryoshka, Li et al. 2024)."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from mmpt.errors import ConfigError
from mmpt.randomness import key, number

WEIGHTS = {
    "uniform": lambda layer: 1.0,
    "inverse": lambda layer: 1 / (1 + layer),
    "logarithmic": lambda layer: 1 / (1 + math.log1p(layer)),
}


@dataclass(frozen=True, kw_only=True)
class MatryoshkaSettings:
    """Each step adds the losses of one block and one width, drawn from these.

    Args:
        layers: blocks, from 1, whose states are to be embeddings as well; the last one always is.
        widths: first numbers of a vector that are to be an embedding by themselves; all of them always are.
        layer_weight: of the losses of block n: 1 (the paper), 1 / (1 + n) (its first code), 1 / (1 + ln(1 + n)) (ESE).
        alignment: weight of the divergence of the block's features from the last one's, times the temperature.
        temperature: of that divergence.
    """

    layers: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    layer_weight: Literal["uniform", "inverse", "logarithmic"] = "uniform"
    alignment: float = 1.0
    temperature: float = 0.3

    def __post_init__(self) -> None:
        if not self.layers and not self.widths:
            raise ValueError("layers, widths: expected some of either, got none")
        if self.alignment < 0 or self.temperature <= 0:
            raise ValueError(
                "alignment, temperature: expected 0 or more and a positive number, "
                f"got {self.alignment} and {self.temperature}"
            )

    def check(self, depth: int, width: int) -> None:
        """Raises ConfigError for a block or width that the trunk lacks."""
        for name, given, most in (("layers", self.layers, depth), ("widths", self.widths, width)):
            wrong = [one for one in given if not 1 <= one <= most]
            if wrong:
                raise ConfigError(
                    f"objective.matryoshka.{name}: expected 1 to {most}, what the trunk has, got {wrong[0]}"
                )


class Cut(NamedTuple):
    """One term: the states of a block (None: the last), how many of their numbers (None: all), and its weight."""

    layer: int | None
    width: int | None
    weight: float


def cuts_of(settings: MatryoshkaSettings | None, position: int, depth: int, width: int) -> list[Cut]:
    """The terms of a step, the whole embedding first; what names the whole again is no second term.

    The draw is one of the step alone: all ranks and micro-batches have the same.
    """
    whole = [Cut(None, None, 1.0)]
    if settings is None:
        return whole
    draw = key(position, "matryoshka")
    layer, narrow = _drawn(settings.layers, draw, "layer", depth), _drawn(settings.widths, draw, "width", width)
    widths = [None] + ([] if narrow is None else [narrow])
    terms = whole + [Cut(None, own, 1.0) for own in widths[1:]]
    if layer is not None:
        weight = WEIGHTS[settings.layer_weight](layer)
        terms += [Cut(layer, own, weight) for own in widths]
    return terms


def _drawn(choices: tuple[int, ...], draw: int, what: str, most: int) -> int | None:
    """One of them; None stands for the largest that there is."""
    if not choices:
        return None
    chosen = choices[int(number(draw, what) * len(choices))]
    return None if chosen == most else chosen


def divergence(teacher: Float[Tensor, "B D"], student: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, " B"]:
    """KL of softmax(teacher / t) and softmax(student / t) of every row, times t; the teacher gets no gradient."""
    goal, said = ((x.float() / temperature).log_softmax(1) for x in (teacher.detach(), student))
    return temperature * (goal.exp() * (goal - said)).sum(1)
