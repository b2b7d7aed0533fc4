"""What flows between the parts, and the few operations that move tokens about.

The axes, for the whole package: B samples (rows), N tokens of a stream, S tokens of all streams, K shown tokens, Q
scored tokens of a row, M scored tokens of the batch (flat), D width, W another width, H heads, E experts, V vocabulary
or codebook, U label sets, P numbers of a patch, L layers, T time samples, C channels or leads.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class Content(NamedTuple):
    """One modality of a batch, as collated."""

    values: Shaped[Tensor, "B N ..."]
    valid: Bool[Tensor, "B N"]  # not padding and not absent
    observed: Bool[Tensor, "B N"]  # a measurement stands here; class and separator tokens are valid but not observed
    segment: Int[Tensor, "B N"]  # which document of a packed row; attention stays inside one
    place: Int[Tensor, "B N"]  # position inside the document
    full: bool = False  # every token valid and one document a row: attention needs no mask
    observed_count: int | None = None  # observed tokens of every row, where all rows have as many
    units: Int[Tensor, "B N U"] | None = None  # k-means labels of the observed tokens, where the source has any
    scores: Float[Tensor, "B N"] | None = None  # a scorer's confidence in the observed tokens, likewise

    def to(self, device: torch.device) -> "Content":
        """The same on a device."""
        moved = (tensor.to(device, non_blocking=True) for tensor in self[:5])
        units, scores = (None if t is None else t.to(device, non_blocking=True) for t in (self.units, self.scores))
        return Content(*moved, full=self.full, observed_count=self.observed_count, units=units, scores=scores)


class Labels(NamedTuple):
    """What is to be learned of every row, or of every token of one stream."""

    values: Shaped[Tensor, "B ..."]
    known: Bool[Tensor, "B ..."]  # rows or tokens that have a label; `values` may have more axes


class Batch(NamedTuple):
    """One micro-batch of one source: the same streams on every rank."""

    streams: dict[str, Content]
    uid: Int[Tensor, " B"]  # names the row: see Loader.sample_names
    draw: Int[Tensor, " B"]  # key of every random number of the row: from (seed, epoch, uid)
    source: str
    position: int  # the step it belongs to
    labels: Labels | None = None  # of fine-tuning
    matched: Bool[Tensor, " B"] | None = None  # False where one half was replaced; None: nothing ever is
    anchor: Bool[Tensor, " B"] | None = None  # False where a row is there only as a negative of others; None: none is

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        streams = {name: content.to(device) for name, content in self.streams.items()}
        uid, draw = (tensor.to(device, non_blocking=True) for tensor in (self.uid, self.draw))
        labels = None
        if self.labels is not None:
            labels = Labels(*(tensor.to(device, non_blocking=True) for tensor in self.labels))
        matched, anchor = (None if t is None else t.to(device, non_blocking=True) for t in (self.matched, self.anchor))
        return self._replace(streams=streams, uid=uid, draw=draw, labels=labels, matched=matched, anchor=anchor)


class Muted(NamedTuple):
    """Tokens that others look at less, and by how much in every block."""

    tokens: Bool[Tensor, "B S"]
    log_weight: Float[Tensor, " L"]


class Tokens(NamedTuple):
    """One or several streams, embedded."""

    x: Float[Tensor, "B N D"]
    position: Float[Tensor, "B N D"]  # apart from x: a hidden token keeps its place
    place: Int[Tensor, "B N"]  # angle of rotary attention; 0 turns nothing
    valid: Bool[Tensor, "B N"]
    segment: Int[Tensor, "B N"]
    stream: Int[Tensor, "B N"]
    full: bool = False
    rotary: bool = False
    penalty: Float[Tensor, ""] | None = None  # mean square of the features that they were made of, where asked for
    muted: Muted | None = None  # None: attention knows no difference


class Shown(NamedTuple):
    """What the trunk gets to see of a stream."""

    tokens: Tokens  # K tokens
    places: Int[Tensor, "B K"]  # where each stood among the N; padding points at a hidden place and is not valid


class Scored(NamedTuple):
    """The positions that the loss counts, a row at a time."""

    places: Int[Tensor, "B Q"]
    valid: Bool[Tensor, "B Q"]
    full: bool  # no padding in Q: flattening needs no look at the data


class Siblings(NamedTuple):
    """What a stream may know of the row that it shares with others."""

    name: str  # of the stream that looks
    row: Int[Tensor, " B"]  # key of the row's random numbers: the same for all of its streams
    maskable: Mapping[str, Int[Tensor, " B"]]  # tokens that could be hidden, by stream, the own one among them


class StreamContext(NamedTuple):
    """All that a part may look at."""

    content: Content
    draw: Int[Tensor, " B"]  # key of the row's random numbers in this stream
    progress: float
    hidden_count: int | None = None  # hidden tokens in every row, where the ratio fixes it
    substitute: Callable[[Float[Tensor, "B N"]], Float[Tensor, "B N D"]] | None = None
    siblings: Siblings | None = None  # None: the stream is alone
    units: Int[Tensor, "B N"] | None = None  # what is hidden together, once that is drawn
    budget: Int[Tensor, " B"] | None = None  # tokens to hide, once that is known
    predicted_loss: Float[Tensor, "B N"] | None = None  # what a teacher expects of every token, nothing being hidden
    taught: Float[Tensor, "L B N D"] | None = None  # what a teacher's last blocks add to every token, likewise
    embedded: Float[Tensor, "B N D"] | None = None  # every token before anything is hidden, where none is dropped
    soft_labels: Float[Tensor, "M V"] | None = None  # log probabilities of the scored tokens' classes, where asked for

    @property
    def maskable(self) -> Bool[Tensor, "B N"]:
        """Tokens that may be hidden."""
        return self.content.valid & self.content.observed


def gather(x: Shaped[Tensor, "B N ..."], index: Int[Tensor, "B K"]) -> Shaped[Tensor, "B K ..."]:
    """x[b, index[b, k]] for every row."""
    shape = index.shape + (1,) * (x.dim() - 2)
    return x.gather(1, index.view(shape).expand(-1, -1, *x.shape[2:]))


def another(valid: Bool[Tensor, "B N"], choice: Float[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """For every place the index of some valid token of its row, picked by numbers in (0, 1)."""
    ordered = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    return ordered.gather(1, (choice * valid.sum(1, keepdim=True)).long())


def gather_tokens(tokens: Tokens, index: Int[Tensor, "B K"], *, full: bool) -> Tokens:
    """The tokens at `index`; full says that the result has neither padding nor several documents."""
    tensors = (gather(t, index) for t in tokens[:6])
    return Tokens(*tensors, full=full, rotary=tokens.rotary)


def chosen_first(chosen: Bool[Tensor, "B N"], count: int | None) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Indices of the chosen tokens of every row, in order, and which of them are real.

    Args:
        chosen: the tokens to find.
        count: how many every row has, if that is known; else the largest row decides, which waits for the device.
    """
    size = int(chosen.sum(1).max()) if count is None else count
    index = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(size, 1)]
    return index, chosen.gather(1, index)


def drop(tokens: Tokens, hidden: Bool[Tensor, "B N"], hidden_count: int | None) -> Shown:
    """Take the hidden tokens out: the trunk's work shrinks with them."""
    places, valid, full = _rest(tokens.valid, hidden, hidden_count if tokens.full else None)
    shown = gather_tokens(tokens, places, full=full)
    return Shown(shown._replace(valid=valid), places)


def drop_content(
    content: Content, hidden: Bool[Tensor, "B N"], hidden_count: int | None
) -> tuple[Content, Int[Tensor, "B K"]]:
    """The same before embedding, and where each token stood: hidden tokens cost nothing at all."""
    places, valid, full = _rest(content.valid, hidden, hidden_count if content.full else None)
    values, _, observed, segment, place = (gather(tensor, places) for tensor in content[:5])
    return Content(values, valid, observed, segment, place, full=full), places


def _rest(
    valid: Bool[Tensor, "B N"], hidden: Bool[Tensor, "B N"], hidden_count: int | None
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"], bool]:
    """Where the shown tokens stand, which of them are real, and whether that is known to be all."""
    count = None if hidden_count is None else valid.shape[1] - hidden_count
    return *chosen_first(valid & ~hidden, count), count is not None


def replace(tokens: Tokens, x: Float[Tensor, "B N D"]) -> Shown:
    """Show every token, with new content."""
    places = torch.arange(tokens.x.shape[1], device=x.device).expand(tokens.x.shape[:2])
    return Shown(tokens._replace(x=x), places)


def restore(
    latents: Float[Tensor, "B K D"], shown: Shown, fill: Float[Tensor, " D"], size: int
) -> Float[Tensor, "B N D"]:
    """Put shown tokens back to their places among `size` and `fill` everywhere else."""
    rows, _, width = latents.shape
    valid = shown.tokens.valid.unsqueeze(2)
    full = fill.to(latents.dtype).expand(rows, size, width)
    content = torch.where(valid, latents, full.gather(1, shown.places.unsqueeze(2).expand_as(latents)))
    return full.scatter(1, shown.places.unsqueeze(2).expand_as(latents), content)


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """Streams side by side in one sequence."""
    if len(parts) == 1:
        return parts[0]
    tensors = (torch.cat(columns, dim=1) for columns in zip(*(part[:6] for part in parts), strict=True))
    return Tokens(*tensors, full=all(p.full for p in parts), rotary=any(p.rotary for p in parts))


def score(scored: Bool[Tensor, "B N"], count: int | None) -> Scored:
    """Row-wise indices of what the loss counts."""
    index, valid = chosen_first(scored, count)
    return Scored(index, valid, full=count is not None)


def flatten(x: Shaped[Tensor, "B Q ..."], scored: Scored) -> Shaped[Tensor, "M ..."]:
    """The scored entries of all rows, one after the other."""
    return x.flatten(0, 1) if scored.full else x[scored.valid]


def unflatten(x: Float[Tensor, " M"], scored: Scored) -> Float[Tensor, "B Q"]:
    """A number a scored entry, back in rows; zeros where there is padding."""
    if scored.full:
        return x.view(scored.valid.shape)
    return x.new_zeros(scored.valid.shape).masked_scatter(scored.valid, x)
