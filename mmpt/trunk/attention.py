"""Multi-head attention (Vaswani et al. 2017) on torch's fused kernel, and which token may look at which."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mmpt.errors import ConfigError
from mmpt.trunk.positions import turn


def may_attend(valid: Bool[Tensor, "B S"], segment: Int[Tensor, "B S"]) -> Bool[Tensor, "B 1 S S"]:
    """A token sees the valid tokens of its own document, and always itself: a row of padding stays finite."""
    same = segment.unsqueeze(1) == segment.unsqueeze(2)
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return ((same & valid.unsqueeze(1)) | itself).unsqueeze(1)


def check_heads(width: int, heads: int) -> None:
    """Heads share the width evenly; raises ConfigError."""
    if heads < 1 or width % heads:
        raise ConfigError(f"width {width} can't be shared by {heads} heads; choose a divisor of {width}")


class SelfAttention(nn.Module):
    """Queries, keys and values of one sequence, in one product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        allowed: Bool[Tensor, "B 1 S S"] | None,
        turns: Float[Tensor, "2 B 1 S W"] | None,
        wanted: Int[Tensor, "B Q"] | None = None,
        bias: Float[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B _ D"]:
        """`allowed` None means that every token sees every other; `wanted` None that all of them come out.

        `bias` is added to every query's product with a key.
        """
        rows, size, width = x.shape
        query, key, value = self.qkv(x).view(rows, size, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if turns is not None:
            query, key = turn(query, turns), turn(key, turns)
        if wanted is not None:
            query = query.gather(2, wanted[:, None, :, None].expand(-1, self.heads, -1, query.shape[3]))
            allowed = None if allowed is None else allowed.gather(2, wanted[:, None, :, None].expand(-1, 1, -1, size))
        if bias is not None:
            mixed = biased_attention(query, key, value, allowed, bias)
        else:
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=allowed)  # B H Q W
        return self.proj(mixed.transpose(1, 2).reshape(rows, -1, width))


def biased_attention(
    query: Float[Tensor, "B H Q W"],
    key: Float[Tensor, "B H S W"],
    value: Float[Tensor, "B H S W"],
    allowed: Bool[Tensor, "B 1 _ S"] | None,
    bias: Float[Tensor, "B S"],
) -> Float[Tensor, "B H Q W"]:
    """A number a key added before the softmax, with a gradient.

    The fused kernels take no mask that has one. So the value comes from a mask without it, which where all numbers are
    0 gives what no mask gives, to the last bit; and the gradient from a second product, whose keys hold the number as
    one of theirs, which every query multiplies by 1. Training costs two attentions, all else one.
    """
    fixed = bias.detach().to(query.dtype)[:, None, None, :].expand(-1, 1, query.shape[2], -1)
    fixed = fixed if allowed is None else torch.where(allowed, fixed, -torch.inf)
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=fixed)
    if not (bias.requires_grad and torch.is_grad_enabled()):
        return mixed
    scale = query.shape[3] ** -0.5
    query, key, value = query.detach(), key.detach(), value.detach()
    more = (bias / scale).to(key.dtype)[:, None, :, None].expand(-1, key.shape[1], -1, 1)
    query, key = torch.cat([query, torch.ones_like(query[..., :1])], 3), torch.cat([key, more], 3)
    value = torch.cat([value, torch.zeros_like(value[..., :1])], 3)
    again = scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scale)[..., :-1]
    return mixed + (again - again.detach())


class CrossAttention(nn.Module):
    """Queries of one sequence look at another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        memory: Float[Tensor, "B S D"],
        allowed: Bool[Tensor, "B 1 Q S"] | None,
    ) -> Float[Tensor, "B Q D"]:
        """`allowed` says which memory token each query may look at; a query with none gets zeros."""
        rows, size, width = x.shape
        query = self.query(x).view(rows, size, self.heads, -1).transpose(1, 2)
        key, value = self.key_value(memory).view(rows, memory.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=allowed)  # B H Q W
        return self.proj(mixed.transpose(1, 2).reshape(rows, size, width))
