"""Passages with what was hidden, and the model's guesses for it."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from matplotlib.figure import FigureBase
from torch import Tensor

from mmpt.encoders.text import Text
from mmpt.objectives import Prediction
from mmpt.objectives.targets.token_ids import TokenIdsTarget
from mmpt.report.drawing import COLUMNS, LINE, Bit, clipped, draw_bits
from mmpt.report.markup import Html, details, element, join, note, table
from mmpt.report.views import View, predictions_of
from mmpt.tokens import Content

GUESSES = 5  # a hidden token
TABLE_ROWS = 6  # hidden tokens of a passage whose guesses are shown without a click
DRAWN_ROWS = 12  # and in a file, at most
CELL, NAME = 22, 14  # characters of a guess in a file, and of the token in it
JOINED = ". A hyphen before a token joins it to the one before; hover over a hidden token for its guesses."
SPACES = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})


class Guess(NamedTuple):
    """One of the likeliest tokens for a hidden place."""

    id: int
    text: str
    probability: float


class Word(NamedTuple):
    """One token of a passage, with the guesses where it was hidden."""

    id: int
    text: str
    hidden: bool
    guesses: tuple[Guess, ...] = ()


class Verdict(NamedTuple):
    """How good the guesses for a hidden token are."""

    style: str
    meaning: str
    colour: str  # where there is no style sheet


RIGHT = Verdict("right", "first guess right", "#d3efdb")
NEAR = Verdict("near", f"among the first {GUESSES}", "#fdecc4")
MISSED = Verdict("missed", "not among them", "#fadadc")
UNSCORED = Verdict("unscored", "hidden, not predicted", "#e4e7ea")


class TextView(View):
    """Tokens in running text."""

    reads = (Text,)
    predicts = TokenIdsTarget
    samples = 6
    room = "line"

    def __init__(self, modality: Text, target: TokenIdsTarget) -> None:
        self.text = modality

    def explain(self) -> list[Html]:
        """The colours."""
        keys = [element("mark", verdict.meaning, class_=verdict.style) for verdict in (RIGHT, NEAR, MISSED)]
        return [join(["Hidden tokens: ", join(keys, " "), JOINED], "")]

    def view(self, content: Content, prediction: Prediction, row: int) -> list[Word]:
        """Without the tokens that open and close a document."""
        places, logits = predictions_of(prediction, row)
        guesses = dict(zip(places.tolist(), _best(self.text, logits), strict=True))
        return [
            Word(number, spelled(self.text, number), bool(prediction.hidden[row, place]), guesses.get(place, ()))
            for place, number in enumerate(content.values[row].tolist())
            if content.observed[row, place]
        ]

    def html(self, seen: list[Word], name: str) -> Html:
        """The passage and a table of guesses."""
        text = element("p", Html(join([_word(word) for word in seen], "").lstrip()), class_="passage")
        guessed = [word for word in seen if word.guesses]
        if not guessed:
            return join([text, note("Nothing is hidden here.")])
        first, rest = guessed[:TABLE_ROWS], guessed[TABLE_ROWS:]
        more = [details(f"{len(rest)} more", _guesses(rest))] if rest else []
        return join([text, _guesses(first), *more])

    def height(self, seen: list[Word]) -> float:
        """By the lines of the passage and the table."""
        return _drawing(seen)[1] * LINE

    def draw(self, seen: list[Word], figure: FigureBase) -> None:
        """The passage, and the guesses below it."""
        draw_bits(figure, *_drawing(seen))


def _best(text: Text, logits: Float[Tensor, "M V"]) -> list[tuple[Guess, ...]]:
    top = logits.softmax(-1).topk(min(GUESSES, logits.shape[-1]), dim=-1)
    rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [tuple(Guess(n, spelled(text, n), p) for n, p in zip(*row, strict=True)) for row in rows]


def spelled(text: Text, number: int) -> str:
    """A token as it stands in running text, with the space before it where it begins a word."""
    before = text.special("bos")
    pair, alone = (text.tokenizer.decode(ids, skip_special_tokens=False) for ids in ([before, number], [before]))
    return pair.removeprefix(alone)


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


def _drawing(words: Sequence[Word]) -> tuple[list[Bit], int]:
    """All characters in their places, and how many lines they take."""
    bits, line = _passage(words)
    guessed = [word for word in words if word.guesses]
    line += 2
    for word in guessed[:DRAWN_ROWS]:
        bits.append(Bit(line, 0, clipped(visible(word.text), NAME), verdict(word).colour))
        cells = [f"{clipped(visible(guess.text), NAME)} {percent(guess)}" for guess in word.guesses]
        bits += [Bit(line, (number + 1) * CELL, cell) for number, cell in enumerate(cells)]
        line += 1
    left = len(guessed) - DRAWN_ROWS
    if left > 0 or not guessed:
        bits.append(Bit(line, 0, f"and {left} more hidden tokens" if guessed else "nothing is hidden here"))
        line += 1
    return bits, line


def _passage(words: Sequence[Word]) -> tuple[list[Bit], int]:
    """Running text, broken between tokens; and its last line."""
    bits, line, column = [], 0, 0
    for word in words:
        text = word.text.translate(str.maketrans("\n\t", "  "))
        if column + len(text) > COLUMNS:
            line, column, text = line + 1, 0, text.lstrip()
        space = len(text) - len(text.lstrip())
        shown = text.strip() or (visible(word.text) if word.hidden else "")
        if shown:
            bits.append(Bit(line, column + space, shown, verdict(word).colour if word.hidden else None))
        column += max(len(text), space + len(shown))
        if "\n" in word.text:
            line, column = line + 1, 0
    return bits, line
