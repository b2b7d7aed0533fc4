"""How reconstructions look: one file a modality."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float, Int
from matplotlib.figure import FigureBase
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.objectives import Prediction
from mmpt.objectives.targets import Target
from mmpt.parts import find_parts
from mmpt.report.markup import Html
from mmpt.tokens import Content


class View(ABC):
    """What one stream's reconstruction shows: taken from tensors once, then written as HTML or drawn.

    Built with the stream's modality and target. `reads` and `predicts` say of which kinds they may be, `samples` how
    many stand on a page, over all sources, and `room` what one of them takes there: a card, a line or the whole width.
    """

    reads: tuple[type[Modality], ...]
    predicts: type[Target]
    samples: int
    room: Literal["card", "line", "page"]

    @abstractmethod
    def __init__(self, modality: Any, target: Any) -> None: ...

    @abstractmethod
    def explain(self) -> list[Html]:
        """Sentences and legends for the reader of a page."""

    @abstractmethod
    def view(self, content: Content, prediction: Prediction, row: int) -> Any:
        """What was there, what was shown of it and what was predicted, in one row."""

    @abstractmethod
    def html(self, seen: Any, name: str) -> Html:
        """An element of the page; `name` says what it is to those who can't see it."""

    @abstractmethod
    def height(self, seen: Any) -> float:
        """Inches that the drawing takes on a figure that is `drawing.WIDTH` wide."""

    @abstractmethod
    def draw(self, seen: Any, figure: FigureBase) -> None:
        """The same with matplotlib, for one file."""


def view_of(modality: Modality, target: Target) -> View | str:
    """The view that can show this stream, or a sentence that says why none can."""
    kinds: Sequence[type[View]] = tuple(find_parts("mmpt.report.views", View).values())
    reading = [kind for kind in kinds if isinstance(modality, kind.reads)]
    if not reading:
        return f"there is no view for what type '{_name(modality)}' reads"
    for kind in reading:
        if isinstance(target, kind.predicts):
            return kind(modality, target)
    return f"predictions of target '{_name(target)}' can't be shown"


def _name(part: object) -> str:
    return type(part).__module__.rpartition(".")[2]


def predictions_of(prediction: Prediction, row: int) -> tuple[Int[Tensor, " M"], Float[Tensor, "M P"]]:
    """Where in a row something was predicted, and what; float32."""
    own = prediction.row == row
    return prediction.places[own], prediction.prediction[own].float()


def on_true_scale(prediction: Float[Tensor, "*M P"], truth: Float[Tensor, "*M P"]) -> Float[Tensor, "*M P"]:
    """Predictions of standardised numbers, with the mean and unbiased deviation of the true ones; M may be 0."""
    mean = truth.mean(dim=-1, keepdim=True)
    variance = (truth - mean).square().sum(dim=-1, keepdim=True) / (truth.shape[-1] - 1)
    return prediction * (variance + 1e-6).sqrt() + mean
