"""Laboratory tables: what was hidden, what was predicted, and how far apart they are, in the columns' own units."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import FigureBase
from torch import Tensor

from mmpt.encoders.labs import Labs
from mmpt.objectives import Prediction
from mmpt.objectives.targets.cells import CellsTarget
from mmpt.report.drawing import COLUMNS, LINE, Bit, clipped, draw_bits
from mmpt.report.markup import Html, details, element, escape, join, note, table
from mmpt.report.views import View, predictions_of
from mmpt.report.views.text import MISSED, RIGHT
from mmpt.tokens import Content

HEAD = ("item", "unit", "true", "predicted", "error")
TABS = (0, 34, 50, 68, 100)  # columns of characters in a file
BEST = 2  # likeliest categories


class Cell(NamedTuple):
    """One observed cell, in words."""

    item: str
    unit: str
    true: str
    predicted: str = ""  # where it was hidden
    error: str = ""
    right: bool | None = None  # of a category


class Cells(NamedTuple):
    """A row of the table."""

    hidden: list[Cell]
    shown: list[Cell]


class LabsView(View):
    """Numbers in their units, categories by name."""

    reads = (Labs,)
    predicts = CellsTarget
    samples = 4
    room = "line"

    def __init__(self, modality: Labs, target: CellsTarget) -> None:
        self.labs, self.target = modality, target

    def explain(self) -> list[Html]:
        """Which cells, and where they end."""
        return [
            escape(
                "Laboratory tables: the hidden cells; numbers in their units, inside the range that the training split "
                "is clipped to; categories with their probability. Cells that were not measured do not appear."
            )
        ]

    def view(self, content: Content, prediction: Prediction, row: int) -> Cells:
        """Hidden cells with their predictions, and the others, in the table's order."""
        places, predicted = predictions_of(prediction, row)
        rank = {int(place): number for number, place in enumerate(places)}
        cells = Cells([], [])
        for place in content.valid[row].nonzero().squeeze(1).tolist():
            column, value = int(content.place[row, place]), float(content.values[row, place])
            guess = predicted[rank[place]] if place in rank else None
            (cells.hidden if prediction.hidden[row, place] else cells.shown).append(self._cell(column, value, guess))
        return cells

    def _cell(self, column: int, value: float, guess: Tensor | None) -> Cell:
        described = self.labs.columns[column]
        if described.categories:
            bare = Cell(described.name, described.unit or "", described.categories[int(value)])
            return bare if guess is None else self._guessed_category(bare, column, guess)
        true = self._number(column, value)
        bare = Cell(described.name, described.unit or "", f"{true:.4g}")
        if guess is None:
            return bare
        number = self._number(column, float(guess[0]))
        return bare._replace(predicted=f"{number:.4g}", error=f"{number - true:+.3g}")

    def _number(self, column: int, value: float) -> float:
        return float(self.labs.original(np.asarray([value]), np.asarray([column]))[0])

    def _guessed_category(self, bare: Cell, column: int, guess: Tensor) -> Cell:
        """The likeliest categories of the column's own, and what probability the true one lacks."""
        names, first = self.labs.columns[column].categories, 1 + int(self.target.kinds.first[column])
        chances = guess[first : first + len(names)].softmax(0)
        best = chances.argsort(descending=True)[:BEST].tolist()
        told = ", ".join(f"{names[number]} {100 * chances[number]:.0f} %" for number in best)
        missing = 1 - float(chances[names.index(bare.true)])
        return bare._replace(predicted=told, error=f"{missing:.2f}", right=names[best[0]] == bare.true)

    def html(self, seen: Cells, name: str) -> Html:
        """A table of the hidden cells; the others behind a click."""
        hidden = table(HEAD, [_line(cell) for cell in seen.hidden], numbers=(2, 4))
        given = table(HEAD[:3], [cell[:3] for cell in seen.shown], numbers=(2,))
        more = details(f"{len(seen.shown)} cells shown to the model", given) if seen.shown else escape("")
        return join([hidden if seen.hidden else note("Nothing is hidden here."), more])

    def height(self, seen: Cells) -> float:
        """By its lines."""
        return _drawing(seen)[1] * LINE

    def draw(self, seen: Cells, figure: FigureBase) -> None:
        """The hidden cells as a table, and the others on the lines below."""
        draw_bits(figure, *_drawing(seen))


def _line(cell: Cell) -> list[object]:
    style = "unscored" if cell.right is None else RIGHT.style if cell.right else MISSED.style
    predicted = element("mark", cell.predicted, class_=style) if cell.predicted else "not predicted"
    return [cell.item, cell.unit, cell.true, predicted, cell.error]


def _drawing(cells: Cells) -> tuple[list[Bit], int]:
    """All characters in their places, and how many lines they take."""
    rows = [HEAD, *(cell[:5] for cell in cells.hidden)]
    ends = [end - 2 for end in (*TABS[1:], COLUMNS + 2)]
    places = [(line, *cell) for line, row in enumerate(rows) for cell in zip(TABS, ends, row, strict=True)]
    bits = [Bit(line, tab, clipped(text, end - tab)) for line, tab, end, text in places]
    for line, cell in enumerate(cells.hidden, 1):
        if cell.right is not None:
            bits.append(
                Bit(
                    line,
                    TABS[3],
                    clipped(cell.predicted, ends[3] - TABS[3]),
                    RIGHT.colour if cell.right else MISSED.colour,
                )
            )
    line, column = len(rows) + 1, 0
    words = [f"{cell.item} {cell.true} {cell.unit}".rstrip() for cell in cells.shown]
    for word in ["shown to the model:", *words] if words else ["nothing else was observed"]:
        if column + len(word) > COLUMNS:
            line, column = line + 1, 0
        bits.append(Bit(line, column, word))
        column += len(word) + 3
    return bits, line + 1
