"""Experts divided over the ranks of a group: tokens travel there and back (GShard, Lepikhin et al. 2020, section 3)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup, all_to_all_single
from torch.distributed._functional_collectives import all_to_all_single_autograd


@torch.compiler.disable()  # sizes are numbers on the host, other ones in every step
def by_way_of(
    group: ProcessGroup, x: Float[Tensor, "slots D"], sizes: list[int], own: Sequence[nn.Module]
) -> Float[Tensor, "slots D"]:
    """What the group's experts make of x, whose slots stand expert by expert.

    The first rank has the first experts, and all have as many. Ranks differ in the shapes of their batches: each has to
    say how much it sends, and the host waits for that once a call.

    Args:
        group: ranks; all of them call.
        x: slots of this rank.
        sizes: how many of them are of each expert of the group.
        own: this rank's experts.
    """
    count = len(own)
    leaving = torch.tensor(sizes, device=x.device)
    arriving = torch.empty_like(leaving)
    all_to_all_single(arriving, leaving, group=group)
    come: list[list[int]] = arriving.view(-1, count).tolist()  # rank by rank, for each of the own experts
    going = [sum(sizes[first : first + count]) for first in range(0, len(sizes), count)]
    coming = [sum(row) for row in come]
    parts = all_to_all_single_autograd(x, coming, going, group).split([size for row in come for size in row])
    made = [expert(torch.cat(parts[number::count])) for number, expert in enumerate(own)]
    pieces = [all_of.split([row[number] for row in come]) for number, all_of in enumerate(made)]
    returning = torch.cat([pieces[number][rank] for rank in range(len(come)) for number in range(count)])
    return all_to_all_single_autograd(returning, going, coming, group)
