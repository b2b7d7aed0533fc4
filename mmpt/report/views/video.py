"""Clips three times over: original, what is shown of it, and what is predicted, as strips of frames."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import FigureBase
from torch import Tensor

from mmpt.encoders.video import Video
from mmpt.objectives import Prediction
from mmpt.objectives.targets.pixels import PixelsTarget, channel_scale
from mmpt.report.figures import draw_titled, titled_pictures
from mmpt.report.markup import Html, escape
from mmpt.report.views import View, predictions_of
from mmpt.tokens import Content

GREY = 128
MOST = 8  # frames of a strip


class Strips(NamedTuple):
    """Frames side by side, three times over."""

    original: UInt8[np.ndarray, "H W 3"]
    masked: UInt8[np.ndarray, "H W 3"]  # hidden tubelets grey
    predicted: UInt8[np.ndarray, "H W 3"]  # hidden tubelets predicted, the others as they are


class VideoView(View):
    """Pixels, put back in place; the first frame of each tubelet, eight at most."""

    reads = (Video,)
    predicts = PixelsTarget
    samples = 4
    room = "page"

    def __init__(self, modality: Video, target: PixelsTarget) -> None:
        self.video, self.target = modality, target

    def explain(self) -> list[Html]:
        """The three strips, and what becomes of standardised tubelets."""
        lines = [
            "Clips, frames from left to right: original; hidden tubelets in grey; hidden tubelets predicted, the "
            "others as they are.",
            "Targets are standardised by tubelet and channel: predictions are shown on the true mean and deviation.",
        ]
        return [escape(" ".join(lines if self.target.normalize else lines[:1]))]

    def view(self, content: Content, prediction: Prediction, row: int) -> Strips:
        """Of one clip."""
        patches, (places, predicted_patches) = content.values[row], predictions_of(prediction, row)
        masked = torch.where(prediction.hidden[row, :, None], torch.full_like(patches, GREY), patches)
        predicted = masked.clone()
        predicted[places] = to_pixels(self.target, predicted_patches, patches[places])
        return Strips(*(strip_of(self.video, part) for part in (patches, masked, predicted)))

    def html(self, seen: Strips, name: str) -> Html:
        """One below the other."""
        return titled_pictures(seen._asdict(), name, class_="strips")

    def height(self, seen: Strips) -> float:
        """Titles and strips."""
        return 3 * (0.4 + 6.0 * seen.original.shape[0] / seen.original.shape[1])

    def draw(self, seen: Strips, figure: FigureBase) -> None:
        """One below the other."""
        draw_titled(seen._asdict(), figure.subplots(3, 1))


def to_pixels(
    target: PixelsTarget, prediction: Float[Tensor, "M P"], patches: UInt8[Tensor, "M P"]
) -> UInt8[Tensor, "M P"]:
    """What the target made of pixels, undone; what was standardised gets its true mean and deviation back."""
    mean, scale = channel_scale(patches) if target.normalize else (target.mean, target.std)
    pixels = prediction.unflatten(-1, (-1, 3)) * scale + mean
    return (pixels.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).flatten(-2)


def strip_of(video: Video, patches: UInt8[Tensor, "N P"]) -> UInt8[np.ndarray, "H W 3"]:
    """Tubelets -> the first frame of each time, or of some at equal distances, side by side."""
    grid = patches.numpy().reshape(video.times, video.side, video.side, video.tubelet, video.patch, video.patch, 3)
    frames = grid[:, :, :, 0].transpose(0, 1, 3, 2, 4, 5).reshape(video.times, video.size, video.size, 3)
    chosen = np.unique(np.linspace(0, video.times - 1, min(video.times, MOST)).astype(int))
    return np.ascontiguousarray(np.concatenate(list(frames[chosen]), axis=1))
