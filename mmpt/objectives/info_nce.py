"""Which vector is the other view of the same row? Cross-entropy of cosines (NT-Xent, Chen et al. 2020; InfoNCE)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize


class Rows(NamedTuple):
    """What is known of the rows of a micro-batch beside their vectors."""

    uid: Int[Tensor, " B"]  # rows that have the same are the same sample, and no negatives of each other
    anchor: Bool[Tensor, " B"]  # asks; a row that does not is a negative of others only
    there: Bool[Tensor, " B"]  # has both views; else it takes no part

    @property
    def asking(self) -> Bool[Tensor, " B"]:
        """Rows that have a loss."""
        return self.anchor & self.there


def contrast(
    one: Float[Tensor, "B D"],
    other: Float[Tensor, "B D"],
    rows: Rows,
    *,
    temperature: float,
    own_side: bool,
) -> tuple[Float[Tensor, " B"], Bool[Tensor, "2 B"]]:
    """Of every row the mean loss of its two views, 0 where it does not ask, and which views found each other first.

    Candidates of a view are the other views of all rows and, with `own_side`, the same views of the other rows: B - 1
    or 2 B - 2 negatives. In exact arithmetic it is symmetric in the views and the vectors' lengths are of no account.
    """
    size = len(one)
    with torch.autocast(one.device.type, enabled=False):
        unit = normalize(torch.cat([one, other]).float(), dim=1)
        logits = unit @ unit.T / temperature  # 2B 2B
    logits = logits.masked_fill(~_candidates(rows, own_side=own_side), -torch.inf)
    places = torch.arange(2 * size, device=one.device)
    positive = logits.gather(1, ((places + size) % (2 * size)).unsqueeze(1)).squeeze(1)
    asking = rows.asking.repeat(2)
    # a row that is not there has no candidate at all, and a sum over none has no gradient that is a number
    each = torch.where(asking, logits.masked_fill(~asking.unsqueeze(1), 0.0).logsumexp(1), 0.0)
    each = each - torch.where(asking, positive, 0.0)
    found = (logits.argmax(1) == (places + size) % (2 * size)) & asking
    return each.view(2, size).mean(0), found.view(2, size)


def _candidates(rows: Rows, *, own_side: bool) -> Bool[Tensor, "A A"]:
    """Which vectors (columns) each vector (rows) is compared with: its own other view among them, itself not."""
    size = len(rows.uid)
    itself = torch.eye(size, dtype=torch.bool, device=rows.uid.device)
    different = (rows.uid.unsqueeze(0) != rows.uid.unsqueeze(1)) & rows.there.unsqueeze(0)
    across = different | (itself & rows.there)
    within = different if own_side else torch.zeros_like(different)
    return torch.cat([torch.cat([within, across], dim=1), torch.cat([across, within], dim=1)])
