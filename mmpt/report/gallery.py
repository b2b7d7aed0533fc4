"""Reconstructions as HTML: what each view makes of a few held-out samples."""

from collections.abc import Mapping

from mmpt.downstream.pretrained import Pretrained
from mmpt.errors import MmptError
from mmpt.objectives.corruption.replace import ReplaceCorruption
from mmpt.report.markup import Html, element, join, note, section
from mmpt.report.reconstructions import Sample, SourceSamples, masked_prediction, reconstruct, views_of
from mmpt.report.views import View

STYLES = {("card",): "cards", ("card", "line"): "cards joint"}  # of the rooms that a sample's views take; else wide


def reconstructions_section(pretrained: Pretrained | str) -> Html:
    """All sources, as far as they can be read; a sentence for what is missing."""
    title = "Reconstructions"
    if isinstance(pretrained, str):
        return section(title, note(f"Nothing can be shown: {pretrained}."))
    if pretrained.step is None:
        return section(title, note("Nothing can be shown: there is no checkpoint yet."))
    parts: list[Html] = []
    try:
        views = views_of(pretrained)
        parts += _explanations(pretrained, views)
        parts += [_source(views, part) for part in reconstruct(pretrained)]
    except (MmptError, OSError) as error:
        parts.append(note(f"No samples can be shown: {error}."))
    return section(title, *parts)


def _explanations(pretrained: Pretrained, views: Mapping[str, View | str]) -> list[Html]:
    lines = [
        f"Samples without augmentation, under the recipe's own masks, predicted by the checkpoint of step "
        f"{pretrained.step:,}."
    ]
    corruptions = [masked_prediction(pretrained).part(name).corruption for name in pretrained.modalities]
    if any(isinstance(c, ReplaceCorruption) and (c.keep or c.random) for c in corruptions):
        lines.append("The recipe lets the model see some hidden tokens as they are, or as random others.")
    lines += [f"Stream '{name}' is not shown: {view}." for name, view in views.items() if isinstance(view, str)]
    own = dict.fromkeys(words for view in views.values() if isinstance(view, View) for words in view.explain())
    return [note(" ".join(lines)), *(note(words) for words in own)]


def _source(views: Mapping[str, View | str], part: SourceSamples) -> Html:
    streams = sorted({name for sample in part.samples for name in sample.seen})
    heading = element("h3", part.source, " ", element("small", f"{' + '.join(streams)}, {part.split} split"))
    if not streams:
        return join([heading, note("No stream of this source has a target that can be shown.")])
    shown = {name: view for name, view in views.items() if isinstance(view, View)}
    style = STYLES.get(tuple(sorted({shown[name].room for name in streams})), "wide")
    return join([heading, element("div", *(_sample(shown, sample) for sample in part.samples), class_=style)])


def _sample(views: Mapping[str, View], sample: Sample) -> Html:
    parts = [views[name].html(seen, f"{name} of {sample.key}") for name, seen in sample.seen.items()]
    return element("article", *parts, element("p", sample.key, class_="origin"))
