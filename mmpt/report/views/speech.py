"""Log-mel spectrograms three times over: original, what is shown of it, and what is predicted."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.figure import FigureBase
from torch import Tensor

from mmpt.encoders.speech import Speech
from mmpt.encoders.speech_mel import SpeechMel
from mmpt.objectives import Prediction
from mmpt.objectives.targets.log_mel import LogMelTarget
from mmpt.report.drawing import MARGIN, WIDTH, drawn
from mmpt.report.markup import Html, element, escape, picture
from mmpt.report.views import View, on_true_scale, predictions_of
from mmpt.tokens import Content, StreamContext

SHARPNESS = 85  # dots an inch on a page
HEIGHT = 2.2  # inches
GREY = "#9a9a9a"
ENDS = (1, 99)  # percentiles of the original that the colours span


class Spectrograms(NamedTuple):
    """Log power by time and mel band; NaN where there is nothing."""

    seconds: float  # from one spectrum to the next
    original: Float[np.ndarray, "T P"]
    hidden: Bool[np.ndarray, " T"]
    predicted: Float[np.ndarray, "T P"]  # hidden spectra predicted, the others as they are


class SpeechView(View):
    """Patches or frames, put back in place."""

    reads = (Speech, SpeechMel)
    predicts = LogMelTarget
    samples = 4
    room = "page"

    def __init__(self, modality: Speech | SpeechMel, target: LogMelTarget) -> None:
        self.speech, self.target = modality, target
        self.plain = LogMelTarget(modality, mels=target.size)

    def explain(self) -> list[Html]:
        """The three spectrograms, and what becomes of standardised tokens."""
        lines = [
            "Speech: its log-mel spectrogram; hidden stretches in grey; hidden stretches predicted, the others as is."
        ]
        if self.target.normalize:
            lines.append("Predictions are shown on each token's true mean and deviation.")
        return [escape(" ".join(lines))]

    def view(self, content: Content, prediction: Prediction, row: int) -> Spectrograms:
        """Overlapping patches are averaged; a spectrum is hidden where every patch that it is part of is."""
        count = int(content.valid[row].sum())
        truth = self._truth(content, row)[:count]
        tokens, predicted = predictions_of(prediction, row)
        if self.target.normalize:
            predicted = on_true_scale(predicted, truth[tokens])
        hidden = prediction.hidden[row, :count]
        guessed = torch.full_like(truth, torch.nan)
        guessed[tokens] = predicted
        heard = self._spectra(torch.where(hidden.unsqueeze(1), torch.nan, truth))
        silent = heard.isnan().all(dim=1)
        return Spectrograms(
            self.speech.hop / self.speech.rate,
            self._spectra(truth).numpy(),
            silent.numpy(),
            torch.where(silent.unsqueeze(1), self._spectra(guessed), heard).numpy(),
        )

    def _truth(self, content: Content, row: int) -> Float[Tensor, "N P"]:
        """As the target has it, but never standardised by the token."""
        values, valid, observed, segment, place = (tensor[row : row + 1] for tensor in content[:5])
        one = Content(values, valid, observed, segment, place)
        return self.plain(StreamContext(one, torch.zeros(1, dtype=torch.int64), 0.0))[0]

    def _spectra(self, patches: Float[Tensor, "N P"]) -> Float[Tensor, "T mels"]:
        """Each the mean of what the patches say of it that say something."""
        kernel, stride = (self.speech.kernel, self.speech.stride) if isinstance(self.speech, SpeechMel) else (1, 1)
        parts = patches.unflatten(1, (kernel, -1))  # N kernel mels
        time = torch.arange(len(parts)).unsqueeze(1) * stride + torch.arange(kernel)
        total, known = torch.zeros(2, kernel + (len(parts) - 1) * stride, parts.shape[2])
        total.index_add_(0, time.flatten(), parts.nan_to_num(0.0).flatten(0, 1))
        known.index_add_(0, time.flatten(), (~parts.isnan()).float().flatten(0, 1))
        return torch.where(known > 0, total / known.clamp(min=1), torch.nan)

    def html(self, seen: Spectrograms, name: str) -> Html:
        """The drawing."""
        drawing = drawn(lambda figure: self.draw(seen, figure), HEIGHT, dpi=SHARPNESS)
        return element("div", picture(drawing, "png", name), class_="strip")

    def height(self, seen: Spectrograms) -> float:
        """Of one line."""
        return HEIGHT

    def draw(self, seen: Spectrograms, figure: FigureBase) -> None:
        """Side by side, in the same colours."""
        masked = np.where(seen.hidden[:, None], np.nan, seen.original)
        low, high = np.percentile(seen.original, ENDS)
        panels = figure.subplots(1, 3, sharey=True)
        figure.subplots_adjust(left=2 * MARGIN / WIDTH, right=1 - MARGIN / WIDTH, top=0.88, bottom=0.2, wspace=0.05)
        names = ("original", "masked", "predicted")
        for axes, name, spectra in zip(panels, names, (seen.original, masked, seen.predicted), strict=True):
            axes.imshow(
                spectra.T,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                extent=(0, len(spectra) * seen.seconds, 0, spectra.shape[1]),
                cmap=colormaps["magma"].with_extremes(bad=GREY),
                vmin=low,
                vmax=max(high, low + 1e-6),
            )
            axes.set_title(name, fontsize=9)
            axes.tick_params(labelsize=7, length=2)
        panels[0].set_ylabel("mel band", fontsize=8)
        panels[1].set_xlabel("seconds", fontsize=8)
