"""What drawings in a file share: lines of text in columns, and the way to PNG."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure, FigureBase

WIDTH = 10.0  # inches
MARGIN = 0.3
SIZE = 8.5  # points
LINE = 0.2  # inches
ADVANCE = 0.602 * SIZE / 72  # inches that a character of the monospaced font takes
COLUMNS = int((WIDTH - 2 * MARGIN) / ADVANCE)


class Bit(NamedTuple):
    """A few characters on a line."""

    line: int
    column: int
    text: str
    ground: str | None = None  # colour behind it


def clipped(text: str, room: int) -> str:
    """At most so many characters."""
    return text if len(text) <= room else f"{text[: room - 1]}…"


def draw_bits(figure: FigureBase, bits: Sequence[Bit], lines: int) -> None:
    """Monospaced text, from the top; data may hold dollars, so nothing is read as mathematics."""
    height = max(lines, 1) * LINE
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    for bit in bits:
        behind = {"facecolor": bit.ground, "edgecolor": "none", "pad": 1.2} if bit.ground else None
        axes.text(
            MARGIN + bit.column * ADVANCE,
            (bit.line + 0.5) * LINE,
            bit.text,
            family="monospace",
            fontsize=SIZE,
            va="center",
            bbox=behind,
            parse_math=False,
        )


def to_png(figure: Figure, *, dpi: int, about: str = "") -> bytes:
    """The file's bytes; `about` goes in as its description. Letters that the font lacks become boxes without a word."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": "mmpt", "Description": about})
    return file.getvalue()


def drawn(draw: Callable[[FigureBase], None], height: float, *, dpi: int) -> bytes:
    """One drawing as PNG."""
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    draw(figure)
    return to_png(figure, dpi=dpi)
