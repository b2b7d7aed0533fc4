"""What two streams say by themselves and what they say together, kept apart (MEDFuse, Phan et al. 2024)."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from mmpt.errors import ConfigError
from mmpt.pools import Pool, TokenLatents, observed_mean
from mmpt.pools.beside import LossBeside
from mmpt.pools.vclub import Estimator, vclub
from mmpt.tokens import Content
from mmpt.trunk.attention import CrossAttention, SelfAttention, check_heads, may_attend

LARGEST = 64  # the product of two vectors has the square of this


class DisentangledPool(Pool, LossBeside):
    """Two streams A and B, in the encoder's order, to [f(S_A), S_C, f(S_B)], which a linear map brings to D numbers.

    Both are projected to W numbers a token. S_A and S_B are what self-attention makes of each, f is the mean over a
    row's observed tokens. C is a linear map of the Kronecker product of the projected streams' means, which is the mean
    of the products of all pairs of tokens; S_C is what it finds in the tokens of S_A and S_B by cross-attention.

    The vCLUB bound of the mutual information of [f(S_A); f(S_B)] and S_C joins the loss. All three are standardised
    row by row for it, since the bound would fall with their mere size. It is taken over the rows that have both
    streams; a row that lacks one gets zeros for its f, and a product of zeros. Its estimator takes a step behind every
    update of the model, on that update's batch.

    Args:
        size: W, at most 64: the product has its square.
        heads: must divide W.
        weight: of the bound in the loss; at 0 there is neither bound nor estimator.
        estimator_rate: learning rate of the estimator. It has to follow the model: one that lags behind lets the bound
            fall far below 0, where it says nothing.
    """

    streams = 2
    name = "mutual_information"

    def __init__(
        self, width: int, *, size: int = 32, heads: int = 4, weight: float = 0.1, estimator_rate: float = 1e-2
    ) -> None:
        super().__init__()
        if not 1 <= size <= LARGEST:
            raise ConfigError(f"size: expected 1 to {LARGEST}, got {size}, of which the product would have the square")
        if weight < 0 or estimator_rate <= 0:
            raise ConfigError(
                f"weight, estimator_rate: expected 0 or more and above 0, got {weight} and {estimator_rate}"
            )
        check_heads(size, heads)
        self.weight = weight
        self.first, self.second = _Side(width, size, heads), _Side(width, size, heads)
        self.joint, self.find = nn.Linear(size * size, size), CrossAttention(size, heads)
        self.joint_norm = nn.LayerNorm(size)
        self.out = nn.Linear(3 * size, width)
        self.estimator = None
        if weight:
            with torch.random.fork_rng(devices=[]):  # all other weights are drawn as without it
                self.estimator = Estimator(2 * size, size, hidden=2 * size, learning_rate=estimator_rate)
        self.pairs: tuple[Tensor, ...] = ()  # of the last forward pass in training; and which rows count, once known

    def forward(self, streams: Mapping[str, TokenLatents]) -> Float[Tensor, "B D"]:
        """From two streams."""
        first, shared, second = self.parted(streams)
        if self.training and self.estimator is not None:
            self.pairs = torch.cat([_standard(first), _standard(second)], dim=1), _standard(shared)
        return self.out(torch.cat([first, shared, second], dim=1))

    def parted(
        self, streams: Mapping[str, TokenLatents]
    ) -> tuple[Float[Tensor, "B W"], Float[Tensor, "B W"], Float[Tensor, "B W"]]:
        """f(S_A), S_C and f(S_B)."""
        one, other = streams.values()
        (a, s_a), (b, s_b) = self.first(one), self.second(other)
        product = torch.einsum("bi,bj->bij", _mean(a, one), _mean(b, other)).flatten(1)
        common = self.joint(product).unsqueeze(1)  # B 1 W
        valid = torch.cat([one.valid, other.valid], dim=1)
        found = self.find(common, torch.cat([s_a, s_b], dim=1), valid[:, None, None, :])
        return _mean(s_a, one), self.joint_norm(common + found).squeeze(1), _mean(s_b, other)

    def counted(self, streams: Mapping[str, Content]) -> Bool[Tensor, " B"]:
        """Rows that have both streams."""
        return torch.stack([content.valid.any(dim=1) for content in streams.values()]).all(dim=0)

    def loss(self, counted: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The bound."""
        if self.estimator is None or len(self.pairs) != 2:
            raise ValueError("the bound needs a weight above 0, and a forward pass in training for each time")
        x, y = self.pairs
        self.pairs = x.detach(), y.detach(), counted
        with torch.autocast(x.device.type, enabled=False):
            return vclub(self.estimator(x), y, counted)

    def after_update(self) -> None:
        """The estimator learns from the pairs that the bound was of, as they were."""
        if self.estimator is not None and len(self.pairs) == 3:
            self.estimator.learn(*self.pairs)
        self.pairs = ()


class _Side(nn.Module):
    """One stream: its tokens projected, and what they make of one another."""

    def __init__(self, width: int, size: int, heads: int) -> None:
        super().__init__()
        self.enter, self.attention, self.norm = nn.Linear(width, size), SelfAttention(size, heads), nn.LayerNorm(size)

    def forward(self, part: TokenLatents) -> tuple[Float[Tensor, "B N W"], Float[Tensor, "B N W"]]:
        """Padding is not looked at, and is zeros before the first product, whatever stood there."""
        x = self.enter(torch.where(part.valid.unsqueeze(2), part.latents, 0.0))
        allowed = may_attend(part.valid, torch.zeros_like(part.place))
        return x, self.norm(x + self.attention(x, allowed, None))


def _mean(x: Float[Tensor, "B N W"], part: TokenLatents) -> Float[Tensor, "B W"]:
    return observed_mean({"": part._replace(latents=x)})[0]


def _standard(x: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
    return layer_norm(x.float(), x.shape[1:])
