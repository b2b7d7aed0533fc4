"""`mmpt show`: one sample of any data set, hidden as in a step of training, and what the model makes of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure, FigureBase

from mmpt.data.manifest import Manifest, load_manifest
from mmpt.data.reader import Reader
from mmpt.data.source import row_draw
from mmpt.downstream.fields import check_fields
from mmpt.downstream.pretrained import Pretrained, load_pretrained
from mmpt.errors import DataError
from mmpt.objectives import Prediction
from mmpt.report.drawing import LINE, WIDTH, Bit, draw_bits, to_png
from mmpt.report.reconstructions import look, predict, views_of
from mmpt.report.training_rows import drawn, find_sample, place_in, source_of
from mmpt.report.views import View
from mmpt.tokens import Batch, Content

TITLE = 0.32  # inches above each stream
HEAD = 3 * LINE


class Row(NamedTuple):
    """A sample in its row of a batch, and what there is to say of it."""

    batch: Batch
    row: int
    document: int  # of the row
    progress: float
    told: str


class Panel(NamedTuple):
    """One stream of the figure: a view with what it sees, or a sentence."""

    title: str
    view: View | None
    seen: Any

    @property
    def height(self) -> float:
        """Inches below the title."""
        return max(self.view.height(self.seen), LINE) if self.view else LINE

    def draw(self, heading: FigureBase, below: FigureBase) -> None:
        """The title, and what the view or the sentence says."""
        heading.text(0.03, 0.3, self.title, fontsize=10, fontweight="bold", parse_math=False)
        if self.view:
            self.view.draw(self.seen, below)
        else:
            draw_bits(below, [Bit(0, 0, self.seen)], 1)


def show(
    run: str | Path,
    data: str | Path,
    key: str,
    *,
    out: str | Path,
    step: int | None = None,
    streams: Sequence[str] | None = None,
) -> Path:
    """Write a PNG of one sample: what is there, what is shown of it, and what is predicted; returns its path.

    A sample that the run trains on is shown as the loader gave it the last time that it was drawn up to `step`: same
    epoch, mask, augmentation and neighbours in a packed row. Of any other sample the beginning is hidden as in epoch 0
    at this point of the schedule. The figure says which, and of which checkpoint the predictions are.

    Args:
        run: the run folder.
        data: a data set; it need not be one of the run's.
        key: of the sample.
        out: the file.
        step: of training, counted from 0; the last one that the newest checkpoint has seen by default. Its own
            checkpoint predicts where there is one, else the newest.
        streams: to show, in one sequence; by default all that the data set and the run share.

    Raises:
        DataError: no such sample (names the nearest key), step or stream, or a sample that can't be read.
        CheckpointError: not a run folder.
    """
    pretrained = load_pretrained(Path(run), step=step)
    manifest = load_manifest(data)
    sample = find_sample(manifest, key)
    shown = row_of(pretrained, manifest, sample, _step(pretrained, step), streams)
    predictions = predict(pretrained, shown.batch, shown.progress)
    weights = "fresh weights" if pretrained.step is None else f"the checkpoint of step {pretrained.step:,}"
    lines = [
        f"{key} of {manifest.folder}, {manifest.column('split')[sample]} split",
        shown.told,
        f"predicted by {weights} of {pretrained.run}",
    ]
    out = Path(out)
    out.write_bytes(_figure(lines, _panels(pretrained, shown, predictions)))
    return out


def _step(pretrained: Pretrained, step: int | None) -> int:
    steps = pretrained.recipe.training.steps
    if step is None:
        return max((pretrained.step or 0) - 1, 0)
    if not 0 <= step <= steps:
        raise DataError(f"step: expected 0 to {steps}, the steps of {pretrained.run}, got {step}")
    return min(step, steps - 1)


def row_of(pretrained: Pretrained, manifest: Manifest, sample: int, step: int, streams: Sequence[str] | None) -> Row:
    source = source_of(pretrained, manifest, sample, streams)
    if source is None:
        return _other_row(pretrained, manifest, sample, step, streams)
    at = drawn(pretrained, source, sample, step)
    rows = source.rows([at.bin])
    source.reader.close()
    key = str(source.reader.key[sample])
    lost = next((skip.reason for skip in rows.skips if skip.key == key), None)
    if lost:
        raise DataError(lost)
    batch = Batch(rows.streams, rows.uid, row_draw(source.seed, rows.epoch, rows.uid), source.name, at.step or 0)
    row, document = place_in(at, rows.readable)
    steps = pretrained.recipe.training.steps
    when = (
        f"step {at.step:,} of {steps:,}" if at.step is not None else f"no step, as the run ends after {steps:,}: it is"
    )
    told = f"hidden as in {when}, in epoch {at.epoch} of source '{source.name}'"
    told += f"; the first of its {at.pieces} pieces" if at.pieces > 1 else ""
    return Row(batch, row, document, (step if at.step is None else at.step) / steps, told)


def _other_row(
    pretrained: Pretrained, manifest: Manifest, sample: int, step: int, streams: Sequence[str] | None
) -> Row:
    """A sample that the run does not train on, alone in its row and without augmentation."""
    used = tuple(streams) if streams else tuple(name for name in pretrained.modalities if name in manifest.fields)
    if not used:
        fields, known = ", ".join(manifest.fields), ", ".join(pretrained.modalities)
        raise DataError(f"{manifest.folder}: has the fields {fields}, and none of the run's streams {known}")
    check_fields(pretrained.run, pretrained.modalities, manifest, used)
    reader = Reader(manifest, list(used))
    values = reader.read(sample)
    reader.close()
    contents = {}
    for name in used:
        modality = pretrained.modalities[name]
        try:
            documents = [modality.read(values[name], 0, modality.limit, None)] if name in values else []
        except DataError as error:
            raise DataError(f"{reader.place(sample)}: member '{name}': {error}") from error
        contents[name] = modality.collate([documents], None)
    uid = torch.tensor([sample])
    draw = row_draw(pretrained.recipe.training.seed, torch.zeros_like(uid), uid)
    steps = pretrained.recipe.training.steps
    told = f"not trained on; hidden as row {sample} of epoch 0 would be in step {step:,} of {steps:,}"
    return Row(Batch(contents, uid, draw, "show", 0), 0, 0, step / steps, told)


def _panels(pretrained: Pretrained, shown: Row, predictions: Mapping[str, Prediction]) -> list[Panel]:
    views = views_of(pretrained)
    streams, own = {}, {}
    for name, content in shown.batch.streams.items():
        streams[name], own[name] = one_document(content, predictions[name], shown.row, shown.document)
    seen = look(views, shown.batch._replace(streams=streams), own, 0)
    panels = []
    for name, content in streams.items():
        view = views[name]
        title = f"{name} ({pretrained.recipe.streams[name].name})"
        if not content.valid.any():
            panels.append(Panel(title, None, f"This sample has no '{name}'."))
        elif isinstance(view, View):
            count, every = int(own[name].hidden.sum()), int((content.valid & content.observed).sum())
            panels.append(Panel(f"{title}, {count} of {every} tokens hidden", view, seen[name]))
        else:
            panels.append(Panel(title, None, f"Not shown: {view}."))
    return panels


def one_document(content: Content, prediction: Prediction, row: int, document: int) -> tuple[Content, Prediction]:
    """One document of a packed row as a row of its own."""
    index = (content.valid[row] & (content.segment[row] == document)).nonzero().squeeze(1)
    values, valid, observed, segment, place = (tensor[row : row + 1, index] for tensor in content[:5])
    new = torch.full_like(content.place[row], -1)
    new[index] = torch.arange(len(index))
    own = prediction.row == row
    places = new[prediction.places[own]]
    inside = places >= 0
    narrowed = Prediction(
        prediction.hidden[row : row + 1, index],
        prediction.prediction[own][inside],
        torch.zeros_like(places[inside]),
        places[inside],
    )
    return Content(values, valid, observed, torch.zeros_like(segment), place), narrowed


def _figure(lines: Sequence[str], panels: Sequence[Panel]) -> bytes:
    heights = [HEAD, *(height for panel in panels for height in (TITLE, panel.height))]
    figure = Figure(figsize=(WIDTH, sum(heights)), facecolor="white")
    head, *parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_bits(head, [Bit(number, 0, line) for number, line in enumerate(lines)], len(lines))
    for panel, heading, below in zip(panels, parts[::2], parts[1::2], strict=True):
        panel.draw(heading, below)
    return to_png(figure, dpi=120, about="\n".join(lines))
