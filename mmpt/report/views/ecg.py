"""ECG on the usual paper: the original in black, hidden spans shaded, predictions in red."""

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from matplotlib.figure import FigureBase
from torch import Tensor

from mmpt.encoders.ecg import Ecg
from mmpt.encoders.ecg_stem import EcgStem, leads_of
from mmpt.encoders.recording import SMALLEST_STD
from mmpt.objectives import Prediction
from mmpt.objectives.targets.signal import SignalTarget
from mmpt.report.drawing import drawn
from mmpt.report.markup import Html, element, escape, picture
from mmpt.report.paper import Recording, draw_recording
from mmpt.report.views import View, on_true_scale, predictions_of
from mmpt.tokens import Content

SHARPNESS = 85  # dots an inch on a page


class EcgView(View):
    """One line a lead; millivolts, where the training split's statistics say how many a standard deviation is."""

    reads = (Ecg, EcgStem)
    predicts = SignalTarget
    samples = 3
    room = "page"

    def __init__(self, modality: Ecg | EcgStem, target: SignalTarget) -> None:
        self.ecg, self.target = modality, target

    def explain(self) -> list[Html]:
        """The colours, and what becomes of standardised strips."""
        lines = ["ECG: the recording in black, what was hidden shaded, what was predicted there in red."]
        if self.ecg.normalize != "statistics":
            lines.append("Recordings are standardised by themselves, so there are no millivolts to show.")
        if self.target.normalize:
            lines.append("Predictions are shown on each strip's true mean and deviation.")
        return [escape(" ".join(lines))]

    def view(self, content: Content, prediction: Prediction, row: int) -> Recording:
        """Strips, put back in place."""
        valid = content.valid[row]
        truth, place = self._samples(content, row), content.place[row]
        tokens, predicted = predictions_of(prediction, row)
        predicted = torch.where(truth[tokens].isnan(), torch.nan, self._on_true_scale(predicted, truth[tokens]))
        count = 1 + int(self._strip(place[valid]).max())
        original = self._in_place(truth[valid], place[valid], count)
        hidden = self._in_place(self._hidden(content, prediction, row)[valid], place[valid], count) == 1
        return Recording(
            self.ecg.leads,
            self.ecg.rate,
            self._unit(),
            self._in_units(original),
            hidden & np.isfinite(original),
            self._in_units(self._in_place(predicted, place[tokens], count)),
        )

    def _samples(self, content: Content, row: int) -> Float[Tensor, "N P"]:
        """As the target has them, but never standardised by the strip; NaN where nothing was measured."""
        values = content.values[row : row + 1].float()
        if isinstance(self.ecg, Ecg):
            return values[0]
        leads = leads_of(values)
        return torch.where(leads.observed, leads.signal, torch.nan).flatten(2)[0]

    def _hidden(self, content: Content, prediction: Prediction, row: int) -> Float[Tensor, "N P"]:
        """1 where the model saw nothing: hidden tokens, and leads that the sample was read without."""
        hidden = prediction.hidden[row].float().unsqueeze(1).expand(-1, self.target.size)
        if isinstance(self.ecg, Ecg):
            return hidden
        leads = leads_of(content.values[row : row + 1])
        left_out = (leads.observed & ~leads.shown).expand_as(leads.signal).flatten(2)[0]
        return torch.where(left_out, 1.0, hidden)

    def _on_true_scale(self, predicted: Float[Tensor, "M P"], truth: Float[Tensor, "M P"]) -> Float[Tensor, "M P"]:
        if not self.target.normalize:
            return predicted
        shape = (len(truth), self.ecg.stride, predicted.shape[1] // self.ecg.stride)  # one lead, or all of them
        own, true = (numbers.view(shape).transpose(1, 2) for numbers in (predicted, truth))
        return on_true_scale(own, true).transpose(1, 2).reshape(predicted.shape)

    def _strip(self, place: Int[Tensor, " K"]) -> Int[Tensor, " K"]:
        return place % self.ecg.max_places

    def _in_place(
        self, numbers: Float[Tensor, "K P"], place: Int[Tensor, " K"], count: int
    ) -> Float[np.ndarray, "T C"]:
        """Samples of tokens -> a recording of so many strips; NaN where no token stands."""
        strip, lead = self._strip(place), place // self.ecg.max_places
        grid = torch.full((count, len(self.ecg.leads), self.ecg.stride), torch.nan)
        if isinstance(self.ecg, Ecg):
            grid[strip, lead] = numbers
        else:
            grid[strip] = numbers.unflatten(1, (self.ecg.stride, -1)).transpose(1, 2)
        return grid.transpose(1, 2).flatten(0, 1).numpy()

    def _unit(self) -> str:
        if self.ecg.normalize != "statistics":
            return "standard deviations"
        return self.ecg.facts.values.get("unit") or "without a unit"

    def _in_units(self, numbers: Shaped[np.ndarray, "T C"]) -> Float[np.ndarray, "T C"]:
        if self.ecg.normalize != "statistics":
            return numbers
        mean, std = (np.asarray(self.ecg.facts.statistics[name], dtype=np.float32) for name in ("mean", "std"))
        return numbers * np.maximum(std, np.float32(SMALLEST_STD)) + mean

    def html(self, seen: Recording, name: str) -> Html:
        """The drawing."""
        drawing = drawn(lambda figure: draw_recording(seen, figure), seen.height, dpi=SHARPNESS)
        return element("div", picture(drawing, "png", name), class_="strip")

    def height(self, seen: Recording) -> float:
        """As the paper says."""
        return seen.height

    def draw(self, seen: Recording, figure: FigureBase) -> None:
        """One line a lead."""
        draw_recording(seen, figure)
