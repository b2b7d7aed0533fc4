"""The view of clips shows what was there, what was hidden of it, and what was predicted, frame by frame."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mmpt.objectives import Prediction
from mmpt.objectives.targets.pixels import PixelsTarget
from mmpt.report.views import view_of
from mmpt.report.views.video import GREY, VideoView
from mmpt.tokens import StreamContext


@pytest.mark.parametrize("normalize", [True, False])
def test_a_perfect_prediction_gives_the_clip_back_and_hidden_tubelets_are_grey(modalities, full_contents, normalize):
    video, content = modalities["video"], full_contents("video")
    target = PixelsTarget(video, normalize=normalize)
    view = view_of(video, target)
    assert isinstance(view, VideoView)
    hidden = torch.zeros_like(content.valid)
    hidden[1, [0, 16, 5, 21]] = True  # two tubes: the first place, and row 1 column 1
    row, places = hidden.nonzero(as_tuple=True)
    true = target(StreamContext(content, torch.arange(len(hidden)), 0.0))[row, places]
    seen = view.view(content, Prediction(hidden, true, row, places), 1)
    frame, grid = 16, content.values[1].view(2, 4, 4, 2, 4, 4, 3)
    assert seen.original.shape == (16, 2 * frame, 3)
    for time in range(2):
        corner = seen.original[4:8, time * frame + 8 : time * frame + 12]
        assert np.array_equal(corner, grid[time, 1, 2, 0].numpy())
        assert (seen.masked[:4, time * frame : time * frame + 4] == GREY).all()
        assert (seen.masked[4:8, time * frame + 4 : time * frame + 8] == GREY).all()
    assert (seen.masked != seen.original).any(2).mean() <= 2 / 16
    assert np.abs(seen.predicted.astype(int) - seen.original).max() <= 1


def test_the_view_writes_html_and_draws(modalities, full_contents):
    video, content = modalities["video"], full_contents("video")
    view = VideoView(video, PixelsTarget(video))
    nothing = torch.zeros_like(content.valid)
    empty = torch.zeros(0, dtype=torch.int64)
    seen = view.view(content, Prediction(nothing, torch.zeros(0, 96), empty, empty), 0)
    assert np.array_equal(seen.predicted, seen.original)
    assert str(view.html(seen, "clip <1>")).count("clip &lt;1&gt;: ") == 3
    figure = Figure(figsize=(8, view.height(seen)))
    view.draw(seen, figure)
    assert [axes.get_title() for axes in figure.axes] == ["original", "masked", "predicted"]
    assert "the true mean and deviation" in " ".join(view.explain())
