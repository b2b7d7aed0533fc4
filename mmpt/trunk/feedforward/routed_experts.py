"""Experts that a gate chooses for every token, whatever its stream (EVE, Chen et al. 2023, section 3.1)."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.functional import linear, one_hot

from mmpt.errors import ConfigError
from mmpt.trunk import Routing, Surroundings
from mmpt.trunk.exchange import by_way_of
from mmpt.trunk.feedforward import FeedForward
from mmpt.trunk.gating import (
    Plan,
    balance_loss,
    choose,
    combine_weights,
    dropless,
    gumbel,
    within_capacity,
    z_loss,
)
from mmpt.trunk.mlp import Mlp


class Gate(nn.Linear):
    """D -> E in full precision, whatever autocast says: its softmax and its argmax are touchy."""

    def forward(self, x: Float[Tensor, "tokens D"]) -> Float[Tensor, "tokens E"]:  # type: ignore[override]
        """Logits."""
        with torch.autocast(x.device.type, enabled=False):
            return linear(x.float(), self.weight.float())


class RoutedExperts(FeedForward):
    """Every token's change is a mixture of those of its k experts; all streams share the experts.

    Queues, capacity and losses are over the tokens of the whole micro-batch of a rank. In training further choices are
    sampled: the best but the first after Gumbel noise. In eval mode there is neither noise nor an end to capacity, so
    that a sample's latents don't depend on its neighbours. `divide` leaves a rank some of the experts: what a token
    gets stays the same, since queues are those of its own rank.

    Args:
        experts: E. k: experts a token.
        ratio: hidden width of each as a multiple of D.
        capacity_factor: places of an expert, in units of what it had if all got as much.
        min_capacity: places that an expert has at least.
        dropless: everyone finds a place in training too; waits for the device, to know the sizes.
        modality_bias: a learned vector a stream is added to its tokens for the gate alone (the paper), for gate and
            experts (the released code), or not at all.
    """

    def __init__(
        self,
        width: int,
        streams: int,
        *,
        experts: int = 8,
        k: int = 2,
        ratio: float = 4.0,
        capacity_factor: float = 1.0,
        min_capacity: int = 4,
        dropless: bool = False,
        modality_bias: Literal["gate_only", "gate_and_expert", "none"] = "gate_only",
    ) -> None:
        super().__init__()
        if not 1 <= k <= experts:
            raise ConfigError(f"k: expected 1 to {experts}, the number of experts, got {k}")
        if capacity_factor <= 0 or min_capacity < 1:
            raise ConfigError(
                "capacity_factor, min_capacity: expected a positive number and at least 1, "
                f"got {capacity_factor} and {min_capacity}"
            )
        self.k, self.streams, self.dropless = k, streams, dropless
        self.capacity_factor, self.min_capacity = capacity_factor, min_capacity
        self.gate = Gate(width, experts, bias=False)
        self.count = experts
        self.group: ProcessGroup | None = None
        self.experts = nn.ModuleDict({str(n): Mlp(width, int(width * ratio)) for n in range(experts)})
        self.stream_vector = nn.Embedding(streams, width) if modality_bias != "none" else None
        self.biased_experts = modality_bias == "gate_and_expert"

    def forward(self, x: Float[Tensor, "B S D"], around: Surroundings) -> tuple[Float[Tensor, "B S D"], Routing]:
        """Shape in = shape out; padding changes by nothing."""
        tokens, valid, stream = x.flatten(0, 1), around.valid.flatten(), around.stream.flatten()
        biased = tokens if self.stream_vector is None else tokens + self.stream_vector(stream)
        logits, count = self.gate(biased), self.count
        noise = None
        if self.training and self.k > 1:
            noise = gumbel(around.draw, around.valid, around.layer, count).flatten(0, 1).to(logits.dtype)
        gates, experts = choose(logits, self.k, noise)
        if self.training and not self.dropless:
            plan = within_capacity(experts, valid, count, self.capacity_factor, self.min_capacity)
        else:
            plan = dropless(experts, valid, count)
        entering = biased if self.biased_experts else tokens
        change = self._through(entering, plan, combine_weights(gates, experts, plan.kept))
        said = [
            one_hot(experts, count).sum(0) * valid.unsqueeze(1),
            (valid & ~plan.kept).sum(0).unsqueeze(1),
            self._entropy(gates.detach(), logits.detach(), valid).unsqueeze(1),
            valid.unsqueeze(1),
        ]
        sums = gates.new_zeros(self.streams, count + 3).index_add(0, stream, torch.cat(said, dim=1).to(gates.dtype))
        dropped, entropy, counted = sums[:, count:].unbind(1)
        balance, router_z = balance_loss(gates, experts[0], valid), z_loss(logits, valid)
        routing = Routing(balance, router_z, sums[:, :count], dropped, entropy, counted)
        return change.view_as(x), routing

    def divide(self, group: ProcessGroup) -> list[nn.Parameter]:
        """Keep this rank's share of the experts alone, under their names; returns their weights.

        From now on all ranks of the group have to call together, in eval mode too.
        """
        share = self.count // group.size()
        first = group.rank() * share
        kept = range(first, first + share)
        self.experts = nn.ModuleDict({name: part for name, part in self.experts.items() if int(name) in kept})
        self.group = group
        return list(self.experts.parameters())

    def _through(
        self, x: Float[Tensor, "tokens D"], plan: Plan, weights: Float[Tensor, "k tokens"]
    ) -> Float[Tensor, "tokens D"]:
        """Tokens to their experts and back; every expert runs, if on nothing, so that it has a gradient."""
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
        entering, experts = padded[plan.source], list(self.experts.values())
        if self.group is not None:
            made = by_way_of(self.group, entering, plan.sizes, experts)
        else:
            parts = entering.split(plan.sizes)
            made = torch.cat([expert(part) for expert, part in zip(experts, parts, strict=True)])
        made = torch.cat([made, made.new_zeros(1, x.shape[1])])
        return (made[plan.slot] * weights.unsqueeze(2)).sum(0).to(made.dtype)

    def _entropy(
        self, gates: Float[Tensor, "tokens E"], logits: Float[Tensor, "tokens E"], valid: Bool[Tensor, " tokens"]
    ) -> Float[Tensor, " tokens"]:
        each = -(gates * logits.log_softmax(1)).sum(1) / math.log(max(self.count, 2))
        return torch.where(valid, each, 0.0)
