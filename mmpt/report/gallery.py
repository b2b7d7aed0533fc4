"""Reconstructions as HTML: pictures three times over, passages with what was hidden and the model's guesses."""

from collections.abc import Sequence
from typing import NamedTuple

from mmpt.encoders.image import Image
from mmpt.encoders.text import Text
from mmpt.errors import MmptError
from mmpt.objectives.corruption.replace import ReplaceCorruption
from mmpt.objectives.masked_prediction import MaskedPrediction
from mmpt.objectives.targets.pixels import PixelsTarget
from mmpt.report.figures import encode_picture
from mmpt.report.markup import Html, details, element, join, note, picture, section, table
from mmpt.report.pretrained import Pretrained
from mmpt.report.reconstructions import GUESSES, Guess, Sample, SourceSamples, Triple, Word, reconstruct

TABLE_ROWS = 6  # hidden tokens of a passage whose guesses are shown without a click
JOINED = ". A hyphen before a token joins it to the one before; hover over a hidden token for its guesses."
SPACES = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})


class Verdict(NamedTuple):
    """How good the guesses for a hidden token are."""

    style: str
    meaning: str


RIGHT = Verdict("right", "first guess right")
NEAR = Verdict("near", f"among the first {GUESSES}")
MISSED = Verdict("missed", "not among them")
UNSCORED = Verdict("unscored", "hidden, not predicted")


def reconstructions_section(pretrained: Pretrained | str) -> Html:
    """All sources, as far as they can be read; a sentence for what is missing."""
    title = "Reconstructions"
    if isinstance(pretrained, str):
        return section(title, note(f"Nothing can be shown: {pretrained}."))
    if pretrained.step is None:
        return section(title, note("Nothing can be shown: there is no checkpoint yet."))
    parts: list[Html] = []
    try:
        parts += [_source(part) for part in reconstruct(pretrained)]
    except (MmptError, OSError) as error:
        parts.append(note(f"No samples can be shown: {error}."))
    return section(title, *_explanations(pretrained), *parts)


def _explanations(pretrained: Pretrained) -> list[Html]:
    objective = pretrained.model.objective
    if not isinstance(objective, MaskedPrediction):
        return []
    lines = [
        f"Samples without augmentation, under the recipe's own masks, predicted by the checkpoint of step "
        f"{pretrained.step:,}."
    ]
    kinds = list(pretrained.modalities.values())
    if any(isinstance(kind, Image) for kind in kinds):
        lines.append("Pictures: original; hidden patches in grey; hidden patches predicted, the others as they are.")
    targets = [part.target for part in objective.streams.values()]
    if any(isinstance(target, PixelsTarget) and target.normalize for target in targets):
        lines.append(
            "Targets are standardised patch by patch: predictions are shown on each patch's true mean and deviation."
        )
    corruptions = [part.corruption for part in objective.streams.values()]
    if any(isinstance(c, ReplaceCorruption) and (c.keep or c.random) for c in corruptions):
        lines.append("The recipe lets the model see some hidden tokens as they are, or as random others.")
    keys = [element("mark", verdict.meaning, class_=verdict.style) for verdict in (RIGHT, NEAR, MISSED)]
    legend = [note("Hidden tokens: ", join(keys, " "), JOINED)] if any(isinstance(kind, Text) for kind in kinds) else []
    return [note(" ".join(lines)), *legend]


def _source(part: SourceSamples) -> Html:
    streams = {name for sample in part.samples for name in (*sample.pictures, *sample.passages)}
    heading = element("h3", part.source, " ", element("small", f"{' + '.join(sorted(streams))}, {part.split} split"))
    if not streams:
        return join([heading, note("No stream of this source has a target that can be shown.")])
    pictures, passages = (any(getattr(sample, kind) for sample in part.samples) for kind in ("pictures", "passages"))
    style = "cards joint" if pictures and passages else "cards" if pictures else "wide"
    return join([heading, element("div", *(_sample(sample) for sample in part.samples), class_=style)])


def _sample(sample: Sample) -> Html:
    pictures = [_triple(name, sample.key, triple) for name, triple in sample.pictures.items()]
    passages = [_passage(words) for words in sample.passages.values()]
    return element("article", *pictures, *passages, element("p", sample.key, class_="origin"))


def _triple(name: str, key: str, triple: Triple) -> Html:
    encoded = [(kind, *encode_picture(pixels)) for kind, pixels in triple._asdict().items()]
    images = [
        element("figure", picture(data, ending, f"{name} of {key}: {kind}"), element("figcaption", kind))
        for kind, data, ending in encoded
    ]
    return element("div", *images, class_="triple")


def _passage(words: Sequence[Word]) -> Html:
    text = element("p", Html(join([_word(word) for word in words], "").lstrip()), class_="passage")
    guessed = [word for word in words if word.guesses]
    if not guessed:
        return join([text, note("Nothing is hidden here.")])
    first, rest = guessed[:TABLE_ROWS], guessed[TABLE_ROWS:]
    more = [details(f"{len(rest)} more", _guesses(rest))] if rest else []
    return join([text, _guesses(first), *more])


def _word(word: Word) -> Html:
    if not word.hidden:
        return join([word.text], "")
    space = word.text[: len(word.text) - len(word.text.lstrip())]
    best = ", ".join(f"{visible(guess.text)} {percent(guess)}" for guess in word.guesses)
    shown = word.text.strip() or visible(word.text)
    return join([space, element("mark", shown, class_=verdict(word).style, title=best or UNSCORED.meaning)], "")


def verdict(word: Word) -> Verdict:
    """By the rank of the truth."""
    ids = [guess.id for guess in word.guesses]
    if not ids:
        return UNSCORED
    return RIGHT if ids[0] == word.id else NEAR if word.id in ids else MISSED


def _guesses(words: Sequence[Word]) -> Html:
    head = ["hidden", *(f"guess {n + 1}" for n in range(len(words[0].guesses)))]
    rows = [
        [
            element("mark", visible(word.text), class_=verdict(word).style),
            *(_guess(guess, word) for guess in word.guesses),
        ]
        for word in words
    ]
    return table(head, rows)


def _guess(guess: Guess, word: Word) -> Html:
    name = element("b" if guess.id == word.id else "span", visible(guess.text), class_="token")
    return join([name, element("span", percent(guess), class_="share")], " ")


def visible(text: str) -> str:
    """With signs for white space; a space before a word goes without saying, its absence is marked."""
    bare = text[1:] if text.startswith(" ") and text.strip() else text
    joined = bare != text or not bare[:1].isalnum()
    return (bare if joined else f"\N{NON-BREAKING HYPHEN}{bare}").translate(SPACES)


def percent(guess: Guess) -> str:
    """A whole number, or one decimal below ten."""
    share = 100 * guess.probability
    return f"{share:.0f} %" if share >= 9.95 else f"{share:.1f} %"
