"""How much vectors differ from token to token: near 0 where a model that makes its own targets has collapsed."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@torch.no_grad()
def spread(
    x: Float[Tensor, "*places D"], counted: Bool[Tensor, "*places"] | None = None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Standard deviation of each of D numbers over the tokens of a micro-batch, their mean, as (sum, count) of tokens.

    Of the `counted` tokens, or of all. data2vec's guard, as fairseq has it, adds the same 1e-6 to the variance.
    """
    x = x.float().flatten(end_dim=-2)
    own = torch.ones_like(x[:, :1], dtype=torch.bool) if counted is None else counted.flatten().unsqueeze(1)
    count = own.sum().float()
    mean = torch.where(own, x, 0.0).sum(0) / count.clamp(min=1)
    squares = torch.where(own, x - mean, 0.0).square().sum(0)
    deviation = (squares / (count - 1).clamp(min=1) + 1e-6).sqrt().mean()
    return deviation * count, count
