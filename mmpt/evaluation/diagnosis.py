"""What was found of a run's latents, as tables and as JSON, and what each figure means."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

MEANINGS = {
    "effective rank": "directions that the latents spread over: the exponential of the entropy of the singular values' "
    "shares; far below the width is collapse (Roy and Vetterli 2007; RankMe, Garrido et al. 2023)",
    "directions for 90 %": "the fewest that hold 90 % of the squares; fewer for real tokens than for masked ones means "
    "that width is kept for mask tokens, which downstream work never sees (MAE-LM, Meng et al. 2023)",
    "masked outside": "share of the masked tokens' squares outside the directions of the real ones (the same)",
    "alike in a row": "mean cosine of two tokens of a row; it rises to 1 where blocks make all tokens the same "
    "(over-smoothing, Shi et al. 2022)",
    "anisotropy": "mean cosine of two tokens of any rows; near 1 all latents point one way (Ethayarajh 2019)",
    "outliers": "dimensions whose mean lies more than 3 deviations from the others', often carriers of the position; "
    "without them anisotropy is that of the rest (Luo et al. 2021)",
    "linear shortcut": "held-out R2 of a linear map from the block to the last one, and of no map: near 1 the blocks "
    "between do little that is not linear (Din et al. 2023)",
    "output": "evenness of the output matrix's spectrum, 1 if flat and 0 if of rank one, and the rank of the logits, "
    "which the width bounds however many classes there are (softmax bottleneck: Yang et al. 2018, Godey et al. 2024)",
    "codes": "codes that no token has or is predicted to have, and the perplexity of their use; dead ones are capacity "
    "lost (wav2vec 2.0, Baevski et al. 2020)",
    "experts": "experts with less than 1 % of a fair share of the choices are dead; the effective number is the "
    "exponential of the loads' entropy (Shazeer et al. 2017; EVE, Chen et al. 2023)",
}


@dataclass(frozen=True)
class BlockDiagnosis:
    """One stream behind one block, the last with the trunk's final norm; None where there are no such tokens.

    Args:
        block: from 1.
        effective_rank, directions: by group of tokens: `complete` rows, `real` ones beside hidden ones, `masked`.
        masked_outside: share of the masked tokens' squares outside the real ones' directions.
        alike: mean cosine of two tokens of a complete row. anisotropy: of any rows.
        outliers: of complete rows' tokens, dimension and deviations.
        shortcut, identity: R2 of a linear map to the last block, and of none, on masked tokens (on real ones where
            masked ones are dropped).
    """

    block: int
    effective_rank: Mapping[str, float | None]
    directions: Mapping[str, int | None]
    masked_outside: float | None
    alike: float | None
    anisotropy: float | None
    outliers: Mapping[str, float]
    shortcut: float | None
    identity: float | None


@dataclass(frozen=True)
class Outlier:
    """A dimension that is an outlier in the last block and in half of all blocks.

    Args:
        dimension: from 0. deviations: of its mean in the last block. blocks: in how many it is one.
        place: correlation with the place in the row.
    """

    dimension: int
    deviations: float
    blocks: int
    place: float


@dataclass(frozen=True)
class CodesDiagnosis:
    """A set of V codes over so many tokens: how many are never the target, never predicted; perplexities."""

    codes: int
    tokens: int
    dead: int
    never_predicted: int
    perplexity: float
    predicted_perplexity: float


@dataclass(frozen=True)
class OutputDiagnosis:
    """The output matrix (classes x width) and the logits of some tokens."""

    classes: int
    width: int
    evenness: float
    effective_rank: float
    logit_rank: int
    tokens: int


@dataclass(frozen=True)
class StreamDiagnosis:
    """One modality. `anisotropy_without` is of the last block without its outliers; None where there is none."""

    stream: str
    width: int
    tokens: Mapping[str, int]
    dropped: bool
    blocks: tuple[BlockDiagnosis, ...]
    outliers: tuple[Outlier, ...]
    anisotropy_without: float | None
    codes: tuple[CodesDiagnosis, ...]
    output: OutputDiagnosis | None

    def table(self) -> Table:
        """For a terminal."""
        counts = ", ".join(f"{count:,} {group}" for group, count in self.tokens.items())
        table = Table(title=Text(f"{self.stream}: width {self.width}; tokens: {counts}"))
        for name in ("block", "effective rank\ncomplete, real, masked", "directions for 90 %", "masked\noutside"):
            table.add_column(name)
        for name in ("alike\nin a row", "anisotropy", "linear shortcut\n(no map)", "outliers"):
            table.add_column(name)
        for own in self.blocks:
            ranks = ", ".join(_told(own.effective_rank[group], ".1f") for group in self.tokens)
            directions = ", ".join(_told(own.directions[group], "d") for group in self.tokens)
            numbers = [_told(value, ".3f") for value in (own.masked_outside, own.alike, own.anisotropy)]
            shortcut = "-" if own.shortcut is None else f"{own.shortcut:.3f} ({_told(own.identity, '.3f')})"
            table.add_row(str(own.block), ranks, directions, *numbers, shortcut, ", ".join(own.outliers) or "none")
        table.caption = Text("\n".join(self.sentences()), justify="left")
        return table

    def sentences(self) -> list[str]:
        """What is no column."""
        lines = ["masked tokens are dropped: they are in no block"] if self.dropped else []
        lines += [
            f"outlier dimension {own.dimension}: {own.deviations:+.1f} deviations, in {own.blocks} of "
            f"{len(self.blocks)} blocks, correlation with the place {own.place:+.2f}"
            for own in self.outliers
        ]
        if self.anisotropy_without is not None:
            before = _told(self.blocks[-1].anisotropy, ".3f")
            lines.append(f"anisotropy of the last block {before}, without its outliers {self.anisotropy_without:.3f}")
        lines += [
            f"codes, set {number}: {own.dead} of {own.codes} dead over {own.tokens:,} tokens, {own.never_predicted} "
            f"never predicted; perplexity {own.perplexity:.1f}, of predictions {own.predicted_perplexity:.1f}"
            for number, own in enumerate(self.codes, start=1)
        ]
        if self.output is not None:
            own = self.output
            lines.append(
                f"output: {own.classes} classes from width {own.width}; evenness {own.evenness:.3f}, effective rank "
                f"{own.effective_rank:.1f}; the logits of {own.tokens} tokens have rank {own.logit_rank}"
            )
        return lines


@dataclass(frozen=True)
class ExpertsDiagnosis:
    """The experts of one block: loads in units of a fair share, of all tokens and by stream."""

    block: int
    loads: tuple[float, ...]
    by_stream: Mapping[str, tuple[float, ...]]
    dead: tuple[int, ...]
    effective: float


@dataclass(frozen=True)
class Diagnosis:
    """All of it; `samples` by data set, `step` None for an untrained model, `hidden` whether tokens were hidden."""

    run: str
    step: int | None
    samples: Mapping[str, int]
    splits: Mapping[str, str]
    streams: tuple[StreamDiagnosis, ...]
    experts: tuple[ExpertsDiagnosis, ...]
    notes: tuple[str, ...]
    hidden: bool = True

    def stream(self, name: str) -> StreamDiagnosis:
        """Of this name."""
        return next(own for own in self.streams if own.stream == name)

    def tables(self) -> list[Table]:
        """One a stream, and one of the experts."""
        made = [own.table() for own in self.streams]
        if self.experts:
            table = Table("block", "dead", "effective number", "loads, 1 is a fair share", title="experts")
            for own in self.experts:
                dead = ", ".join(map(str, own.dead)) or "none"
                loads = " ".join(f"{load:.2f}" for load in own.loads)
                table.add_row(str(own.block), dead, f"{own.effective:.1f} of {len(own.loads)}", loads)
            made.append(table)
        return made

    def caption(self) -> str:
        """What was looked at, and what the figures mean."""
        return "\n".join([self.looked(), *self.notes, *(f"{name}: {what}" for name, what in self.meanings().items())])

    def looked(self) -> str:
        """In one sentence."""
        what = ", ".join(f"{count} samples of {name} ({self.splits[name]})" for name, count in self.samples.items())
        which = (
            "the untrained model" if self.step is None else f"step {self.step}" if self.step else "the given weights"
        )
        return f"{which} over {what}, {'hidden as in the first epoch of training' if self.hidden else 'nothing hidden'}"

    def meanings(self) -> dict[str, str]:
        """Of the figures that there are."""
        absent = set() if self.hidden else {"masked outside"}
        if not any(own.codes for own in self.streams):
            absent.add("codes")
        if not any(own.output for own in self.streams):
            absent.add("output")
        if not self.experts:
            absent.add("experts")
        return {name: what for name, what in MEANINGS.items() if name not in absent}

    def to_json(self) -> str:
        """All of it, by the fields' names."""
        return json.dumps({**asdict(self), "meanings": self.meanings()}, indent=1, ensure_ascii=False) + "\n"

    def write(self, run: Path, name: str) -> Path:
        """Put it into the run folder, where the report looks for it."""
        parts = ["diagnosis", *([re.sub(r"[^a-zA-Z0-9_.-]+", "_", name)] if name else [])]
        parts += ["untrained"] if self.step is None else []
        file = run / f"{'-'.join(parts)}.json"
        staged = file.with_name(f".{file.name}.staged")
        staged.write_text(self.to_json(), encoding="utf-8")
        staged.replace(file)
        return file


def _told(value: float | int | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
