"""Objectives: what a step of pretraining does. Most methods are settings of `masked_prediction`."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmpt.tokens import Batch

if TYPE_CHECKING:
    from mmpt.model import Backbone


class Guide(NamedTuple):
    """What a teacher said of a stream before the step."""

    predicted: Float[Tensor, "B N"]  # the loss it expects of every token
    certain: Bool[Tensor, "B N"]  # hidden because of it


class Hidden(NamedTuple):
    """What a step hides, decided before anything is computed: all ranks have to know the denominators of the losses."""

    hidden: Bool[Tensor, "B N"]
    scored: Bool[Tensor, "B N"]
    hidden_count: int | None  # hidden tokens of every row, where fixed
    denominator: Float[Tensor, ""]  # what this micro-batch adds to the loss's global denominator
    guide: Guide | None = None  # None: no teacher chose
    weight: Float[Tensor, " B"] | None = None  # of each row's losses; None: all alike


class Loss(NamedTuple):
    """One objective's loss on a micro-batch, as a sum; rows holds the sum of each row."""

    total: Float[Tensor, ""]
    rows: Float[Tensor, " B"]

    def plus(self, more: "Loss", weight: float = 1.0) -> "Loss":
        """With another term of it."""
        return Loss(self.total + weight * more.total, self.rows + weight * more.rows)


class Step(NamedTuple):
    """What the forward pass gives: sums of losses by objective, and figures for the log as (sum, count)."""

    losses: dict[str, Loss]
    balance: Float[Tensor, ""]  # of the trunk's experts, as is their router_z
    router_z: Float[Tensor, ""]
    metrics: dict[str, tuple[Float[Tensor, ""], Float[Tensor, ""]]]


class Prediction(NamedTuple):
    """A stream's predictions, for inspection: what was hidden and what was made of it."""

    hidden: Bool[Tensor, "B N"]
    prediction: Float[Tensor, "M P"]
    row: Int[Tensor, " M"]
    places: Int[Tensor, " M"]


class Objective(nn.Module, ABC):
    """Built with the backbone and its modalities.

    `heir` names the part of it, if any, that takes over all weights of the objective of the run that it begins with.
    `one_document` says that a row has to be one sample's; `compares_rows` that rows which are only negatives of others
    are of use to it; `reads_weights` that it computes with the backbone's weights themselves, which have to be whole.
    """

    heir: str | None = None
    one_document: bool = False
    compares_rows: bool = False
    reads_weights: bool = False

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """The share of every loss in the total, by name."""

    @abstractmethod
    def hide(self, batch: Batch, progress: float) -> dict[str, Hidden]:
        """What is hidden of each stream in the batch; no gradients, no weights."""

    @abstractmethod
    def forward(self, backbone: "Backbone", batch: Batch, hidden: dict[str, Hidden], progress: float) -> Step:
        """The losses of one micro-batch."""

    @abstractmethod
    def touch(self, backbone: "Backbone", batch: Batch) -> Float[Tensor, ""]:
        """A number that depends on all weights of the streams that the batch lacks, computed on padding alone.

        Times zero it joins the loss, so that every weight has a gradient in every step: ZeRO-3 would reuse the last
        step's for one that has none, and ranks would wait for each other if they differed.
        """

    @abstractmethod
    def after_update(self, backbone: "Backbone", progress: float) -> None:
        """Move what follows the weights without being trained; called once for every update that was made."""

    @abstractmethod
    def predict(self, backbone: "Backbone", batch: Batch, hidden: dict[str, Hidden]) -> dict[str, Prediction]:
        """The predictions alone, for reports."""
