"""Pictures three times over: original, what is shown of it, and what is predicted."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import FigureBase
from torch import Tensor

from mmpt.encoders.image import Image, normalise
from mmpt.objectives import Prediction
from mmpt.objectives.targets.pixels import PixelsTarget
from mmpt.report.figures import draw_titled, titled_pictures
from mmpt.report.markup import Html, escape
from mmpt.report.views import View, on_true_scale, predictions_of
from mmpt.tokens import Content

GREY = 128


class Triple(NamedTuple):
    """A picture three times over."""

    original: UInt8[np.ndarray, "H W 3"]
    masked: UInt8[np.ndarray, "H W 3"]  # hidden patches grey
    predicted: UInt8[np.ndarray, "H W 3"]  # hidden patches predicted, the others as they are


class ImageView(View):
    """Pixels, put back in place."""

    reads = (Image,)
    predicts = PixelsTarget
    samples = 8
    room = "card"

    def __init__(self, modality: Image, target: PixelsTarget) -> None:
        self.image, self.target = modality, target

    def explain(self) -> list[Html]:
        """The three pictures, and what becomes of standardised patches."""
        lines = [
            "Pictures: original; hidden patches in grey; hidden patches predicted, the others as they are.",
            "Targets are standardised patch by patch: predictions are shown on each patch's true mean and deviation.",
        ]
        return [escape(" ".join(lines if self.target.normalize else lines[:1]))]

    def view(self, content: Content, prediction: Prediction, row: int) -> Triple:
        """Without the class token."""
        patches, (places, predicted_patches) = content.values[row, 1:], predictions_of(prediction, row)
        masked = torch.where(prediction.hidden[row, 1:, None], torch.full_like(patches, GREY), patches)
        predicted = masked.clone()
        predicted[places - 1] = to_pixels(self.target, predicted_patches, patches[places - 1])
        return Triple(*(assemble(self.image, part) for part in (patches, masked, predicted)))

    def html(self, seen: Triple, name: str) -> Html:
        """Side by side."""
        return titled_pictures(seen._asdict(), name, class_="triple")

    def height(self, seen: Triple) -> float:
        """A title and the pictures."""
        return 2.8

    def draw(self, seen: Triple, figure: FigureBase) -> None:
        """Side by side."""
        draw_titled(seen._asdict(), figure.subplots(1, 3))


def to_pixels(
    target: PixelsTarget, prediction: Float[Tensor, "M P"], patches: UInt8[Tensor, "M P"]
) -> UInt8[Tensor, "M P"]:
    """What the target made of pixels, undone; patches that were standardised get their true mean and deviation back."""
    if target.normalize:
        prediction = on_true_scale(prediction, normalise(patches, target.mean, target.std))
    pixels = prediction.unflatten(-1, (-1, 3)) * target.std + target.mean
    return (pixels.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).flatten(-2)


def assemble(image: Image, patches: UInt8[Tensor, "N P"]) -> UInt8[np.ndarray, "H W 3"]:
    """Patches -> picture."""
    grid = patches.numpy().reshape(image.side, image.side, image.patch, image.patch, 3)
    return np.ascontiguousarray(grid.transpose(0, 2, 1, 3, 4).reshape(image.size, image.size, 3))
