"""Which weights of another model are which of ours, and how they are laid out: every map can be gone both ways."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

KINDS = ("weight", "bias")


class Form(NamedTuple):
    """How one layout becomes the other."""

    taken: Callable[[Tensor], Tensor]  # theirs -> ours
    given: Callable[[Tensor], Tensor]  # ours -> theirs


PLAIN = Form(lambda theirs: theirs, lambda ours: ours)
FIRST_ROW = Form(lambda theirs: theirs[:1], lambda ours: ours)  # of embeddings of token types: we have one
VECTOR = Form(torch.flatten, lambda ours: ours.view(1, 1, -1))
TABLE = Form(lambda theirs: theirs.squeeze(0), lambda ours: ours.unsqueeze(0))  # N D of 1 N D


class Entry(NamedTuple):
    """One weight.

    Args:
        ours: name in a model of ours.
        theirs: name in the other, or several that are joined along the first axis.
        form: how it is laid out.
    """

    ours: str
    theirs: tuple[str, ...]
    form: Form = PLAIN

    def take(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Ours, of theirs."""
        return self.form.taken(torch.cat([weights[name] for name in self.theirs]) if self.joins else weights[self.name])

    def give(self, weight: Tensor) -> dict[str, Tensor]:
        """Theirs, of ours."""
        parts = self.form.given(weight).chunk(len(self.theirs)) if self.joins else [self.form.given(weight)]
        return {name: part.contiguous() for name, part in zip(self.theirs, parts, strict=True)}

    @property
    def joins(self) -> bool:
        """Whether it is one of several."""
        return len(self.theirs) > 1

    @property
    def name(self) -> str:
        """The first of theirs."""
        return self.theirs[0]


def layers(ours: str, theirs: str | Sequence[str], form: Form = PLAIN) -> list[Entry]:
    """Weight and bias of one layer; `form` is of the weight."""
    names = (theirs,) if isinstance(theirs, str) else tuple(theirs)
    return [
        Entry(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in names), form if kind == "weight" else PLAIN)
        for kind in KINDS
    ]


def block_layers(depth: int, theirs: str, parts: Mapping[str, str | tuple[str, ...]]) -> list[Entry]:
    """Those of all blocks of a trunk.

    Args:
        depth: blocks.
        theirs: what stands before the names of a block, with {number} in it.
        parts: our name in a block -> theirs.
    """
    entries = []
    for number in range(depth):
        before = theirs.format(number=number)
        for ours, named in parts.items():
            names = (named,) if isinstance(named, str) else named
            entries += layers(f"backbone.trunk.blocks.{number}.{ours}", [before + name for name in names])
    return entries


def skipped_rows(count: int) -> Form:
    """A table whose first rows are never looked up."""
    return Form(
        lambda theirs: theirs[count:],
        lambda ours: torch.cat([ours.new_zeros(count, *ours.shape[1:]), ours]),
    )


def row(number: int) -> Form:
    """One row of a table; there is no way back, for the table is an entry of its own."""
    return Form(lambda theirs: theirs[number], lambda ours: ours)


def patches(patch: int) -> Form:
    """A convolution over square patches; our numbers of a patch are by row, column, channel."""
    return Form(
        lambda theirs: theirs.permute(0, 2, 3, 1).flatten(1),
        lambda ours: ours.unflatten(1, (patch, patch, -1)).permute(0, 3, 1, 2),
    )


def taps(kernel: int) -> Form:
    """A convolution in time (D C T); ours is (T C, D)."""
    return Form(
        lambda theirs: theirs.permute(2, 1, 0).flatten(0, 1),
        lambda ours: ours.unflatten(0, (kernel, -1)).permute(2, 1, 0),
    )


def given(entries: Sequence[Entry], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way out: weights of the other model, of ours; what ours lacks is left out."""
    return {
        name: part
        for entry in entries
        if entry.ours in weights
        for name, part in entry.give(weights[entry.ours]).items()
    }
