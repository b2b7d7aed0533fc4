"""The trunk that all modalities share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmpt.tokens import Tokens

Between = Callable[[int, Tensor], Tensor]  # what is made of the tokens behind a block, counted from 1
Columns = tuple[tuple[int, int], ...]  # stream and how many columns it takes, left to right


class Surroundings(NamedTuple):
    """What every block needs beside x."""

    valid: Bool[Tensor, "B S"]
    stream: Int[Tensor, "B S"]
    allowed: Bool[Tensor, "B 1 S S"] | None
    turns: Float[Tensor, "2 B 1 S W"] | None
    draw: Int[Tensor, " B"]
    columns: Columns = ()  # the same as `stream`, known without a look at the device
    layer: int = 0
    bias: Float[Tensor, "B S"] | None = None  # added to what every query makes of a key, before the softmax


class Routing(NamedTuple):
    """What a feed-forward with a gate says of a micro-batch; padding is in none of it."""

    balance: Float[Tensor, ""]  # loss, 1 where all experts get as much
    router_z: Float[Tensor, ""]  # loss, the mean square of the logits' log-sum-exp
    chosen: Float[Tensor, "streams E"]  # choices of the streams' tokens, those that found no place among them
    dropped: Float[Tensor, " streams"]  # choices that found no place
    entropy: Float[Tensor, " streams"]  # of the gate in units of log E, summed over tokens
    tokens: Float[Tensor, " streams"]


class Inner(NamedTuple):
    """What a block gives, before any final norm."""

    x: Float[Tensor, "B S D"]
    change: Float[Tensor, "B S D"]  # its feed-forward's part of it


class TrunkOutput(NamedTuple):
    """Latents of every token, what the layers that route said, and the inner states that were asked for, by layer."""

    latents: Float[Tensor, "B S D"]
    routings: dict[int, Routing]
    inner: dict[int, Inner]

    @property
    def balance(self) -> Float[Tensor, ""]:
        """Mean over the layers that route; 0 where none does."""
        return self._mean([routing.balance for routing in self.routings.values()])

    @property
    def router_z(self) -> Float[Tensor, ""]:
        """Mean over the layers that route; 0 where none does."""
        return self._mean([routing.router_z for routing in self.routings.values()])

    def _mean(self, losses: list[Tensor]) -> Float[Tensor, ""]:
        return torch.stack(losses).mean() if losses else self.latents.new_zeros((), dtype=torch.float32)

    def metrics(self, names: list[str]) -> dict[str, tuple[Float[Tensor, ""], Float[Tensor, ""]]]:
        """Figures for the log as (sum, count); `names` are the streams', by number.

        Of every layer that routes, counted from 1: `experts/load/<layer>/<expert>/<stream>` is a share of the layer's
        choices, `experts/dropped/<layer>/<stream>` of the stream's choices, and `experts/entropy/<layer>/<stream>` a
        mean over its tokens.
        """
        if not self.routings:
            return {}
        balance = self.balance.detach()
        metrics = {"experts/balance": (balance, torch.ones_like(balance))}
        for layer, routing in self.routings.items():
            of_layer, of_streams = routing.chosen.sum(), routing.chosen.sum(1)
            for number, name in enumerate(names):
                metrics[f"experts/dropped/{layer}/{name}"] = routing.dropped[number], of_streams[number]
                metrics[f"experts/entropy/{layer}/{name}"] = routing.entropy[number], routing.tokens[number]
                for expert, load in enumerate(routing.chosen[number].unbind()):
                    metrics[f"experts/load/{layer}/{expert}/{name}"] = load, of_layer
        return metrics


class Trunk(nn.Module, ABC):
    """Tokens of all streams in one sequence -> latents of the same shape.

    `streams` is the number of modality ids; `width` is D, `depth` the number of blocks.
    """

    width: int
    depth: int

    @abstractmethod
    def forward(
        self,
        tokens: Tokens,
        draw: Int[Tensor, " B"],
        columns: Columns = (),
        layers: Collection[int] = (),
        between: Between | None = None,
    ) -> TrunkOutput:
        """`draw` is the key of each row's random numbers; `columns` says which columns are of which stream.

        Inner states come along of the blocks in `layers`, counted from 1, as they were before `between`.
        """

    @abstractmethod
    def finish(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """What stands behind the last block: inner states of any block -> latents of a trunk that ends there."""
