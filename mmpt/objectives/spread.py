"""How much vectors differ from token to token: near 0 where a model that makes its own targets has collapsed."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def spread(x: Float[Tensor, "M D"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Standard deviation of each of D numbers over the tokens of a micro-batch, their mean, as (sum, count) of tokens.

    data2vec's guard (Baevski et al. 2022, section 4.1) adds the same 1e-6 to the variance.
    """
    x = x.float()
    centred = x - x.sum(0) / max(len(x), 1)
    deviation = (centred.square().sum(0) / max(len(x) - 1, 1) + 1e-6).sqrt().mean()
    count = torch.full_like(deviation, len(x))
    return deviation * count, count
