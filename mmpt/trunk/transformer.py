"""The transformer over streams side by side, pre-norm (Dosovitskiy et al. 2020, section 3.1) or post-norm (BERT)."""

from collections.abc import Callable, Collection
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmpt.config import Component, component
from mmpt.errors import ConfigError
from mmpt.randomness import fold, uniform
from mmpt.tokens import Tokens, gather
from mmpt.trunk import Between, Columns, Inner, Routing, Surroundings, Trunk, TrunkOutput
from mmpt.trunk.attention import SelfAttention, may_attend
from mmpt.trunk.feedforward import FeedForward
from mmpt.trunk.positions import rotary_turns

Norm = Literal["pre", "post"]


class Block(nn.Module):
    """Attention, then feed-forward, each added to what came in; whole rows skip a branch with share `drop`.

    With `norm` pre a branch is given its input normalised; with post its sum with what came in is normalised, as in the
    original transformer (Vaswani et al. 2017, section 3.1) and BERT. The two LayerNorms have the same names either way.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        feedforward: FeedForward,
        *,
        drop: float = 0.0,
        layer: int = 0,
        eps: float = 1e-6,
        norm: Norm = "pre",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.feedforward = feedforward
        self.drop = drop
        self.layer = layer
        self.norm: Norm = norm

    def forward(
        self, x: Float[Tensor, "B S D"], around: Surroundings, wanted: Int[Tensor, "B Q"] | None = None
    ) -> tuple[Tensor, Routing | None]:
        """Returns x and what a feed-forward that routes says.

        With `wanted` only those tokens come out: what a last block computes where not every token is looked at.
        """
        x, change, routing = self.apart(x, around, wanted)
        return self.joined(x, change), routing

    def apart(
        self, x: Float[Tensor, "B S D"], around: Surroundings, wanted: Int[Tensor, "B Q"] | None = None
    ) -> tuple[Tensor, Tensor, Routing | None]:
        """The same with the feed-forward's change not yet `joined` to x."""
        change = self.attention(self._before(self.norm1, x), around.allowed, around.turns, wanted, around.bias)
        if wanted is not None:
            x, valid, stream = gather(x, wanted), around.valid.gather(1, wanted), around.stream.gather(1, wanted)
            around = around._replace(valid=valid, stream=stream, columns=())
        x = self._after(self.norm1, x + self._kept(change, around.draw, "attention"))
        change, routing = self.feedforward(self._before(self.norm2, x), around._replace(layer=self.layer))
        return x, self._kept(change, around.draw, "feedforward"), routing

    def joined(self, x: Float[Tensor, "B S D"], change: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """What the block gives, of the two that `apart` gives."""
        return self._after(self.norm2, x + change)

    def _before(self, norm: nn.Module, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        return norm(x) if self.norm == "pre" else x

    def _after(self, norm: nn.Module, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        return norm(x) if self.norm == "post" else x

    def _kept(self, change: Float[Tensor, "B S D"], draw: Int[Tensor, " B"], branch: str) -> Float[Tensor, "B S D"]:
        """Stochastic depth (Huang et al. 2016), drawn per row so that no layout of the batch changes it."""
        if not (self.training and self.drop):
            return change
        kept = kept_rows(draw, branch, self.layer, self.drop)
        return change * (kept / (1 - self.drop)).to(change.dtype)[:, None, None]


@torch.compiler.disable()  # 64-bit wrapping constants overflow inductor's index arithmetic (torch 2.14)
def kept_rows(draw: Int[Tensor, " B"], branch: str, layer: int, drop: float) -> Bool[Tensor, " B"]:
    """Which rows keep a branch of a layer."""
    return uniform(fold(fold(draw, f"drop path {branch}"), layer)) >= drop


class Transformer(Trunk):
    """The trunk.

    Args:
        width: D. depth: blocks. heads: of attention; must divide width.
        feedforward: what stands behind attention.
        top_feedforward: what stands there in the last `top_layers` blocks instead.
        drop_path: stochastic depth of the last block; the share rises linearly from 0 at the first.
        norm: `pre` normalises what enters a branch, with one more norm behind the last block; `post` what comes out of
            each addition, as BERT, RoBERTa and HuBERT Base do, whose last block's norm is the last one.
        norm_entry: normalise the sum of content, position and modality before the first block, as RoBERTa does.
        rotary_base: of the angles, for modalities with rotary positions.
        norm_eps: of every LayerNorm.
        checkpointing: compute blocks again in backward instead of keeping their activations.
        compile: run every block through torch.compile.
    """

    def __init__(
        self,
        streams: int,
        *,
        width: int,
        depth: int,
        heads: int,
        feedforward: Component[FeedForward] = component(FeedForward, "dense"),
        top_feedforward: Component[FeedForward] | None = None,
        top_layers: int = 0,
        drop_path: float = 0.0,
        norm: Norm = "pre",
        norm_entry: bool = False,
        rotary_base: float = 10000.0,
        norm_eps: float = 1e-6,
        checkpointing: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.head_width = width // heads
        self.rotary_base = rotary_base
        self.checkpointing = checkpointing
        shares = torch.linspace(0, drop_path, depth).tolist()
        self.stream_embedding = nn.Embedding(streams, width) if streams > 1 else OnlyStream(width)
        self.entry = nn.LayerNorm(width, eps=norm_eps) if norm_entry else nn.Identity()
        if not 0 <= top_layers <= depth or (top_layers > 0) != (top_feedforward is not None):
            raise ConfigError(
                f"top_feedforward, top_layers: expected a feed-forward and 1 to {depth} (the depth) blocks that have "
                f"it, or neither; got {top_feedforward.name if top_feedforward else 'none'} and {top_layers}"
            )
        chosen = [feedforward] * (depth - top_layers) + [top_feedforward or feedforward] * top_layers
        self.blocks = nn.ModuleList(
            Block(width, heads, part.build(width, streams), drop=share, layer=layer, eps=norm_eps, norm=norm)
            for layer, (part, share) in enumerate(zip(chosen, shares, strict=True))
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps) if norm == "pre" else nn.Identity()
        initialise(self)
        if compile:
            for block in self.blocks:
                block.compile(dynamic=True)

    def forward(
        self,
        tokens: Tokens,
        draw: Int[Tensor, " B"],
        columns: Columns = (),
        layers: Collection[int] = (),
        between: Between | None = None,
    ) -> TrunkOutput:
        """Every token sees the valid tokens of its own document, whichever stream they are of."""
        around = self.surroundings(tokens, draw)._replace(columns=columns)
        x = self.entry(tokens.x + tokens.position + self.stream_embedding(tokens.stream))
        routings, inner = {}, {0: Inner(x, torch.zeros_like(x))} if 0 in layers else {}
        for layer, block in enumerate(self.blocks, start=1):
            if tokens.muted is not None:
                around = around._replace(bias=tokens.muted.tokens * tokens.muted.log_weight[layer - 1])
            if layer in layers:
                own = cast("Block", block)
                x, change, routing = self._run(own.apart, x, around)
                x = own.joined(x, change)
                inner[layer] = Inner(x, change)
            else:
                x, routing = self._run(block, x, around)
            if routing is not None:
                routings[layer] = routing
            if between is not None:
                x = between(layer, x)
        return TrunkOutput(self.finish(x), routings, inner)

    def finish(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """The final norm."""
        return self.norm(x)

    def _run(self, block: Callable[..., Any], x: Float[Tensor, "B S D"], around: Surroundings) -> Any:
        if self.checkpointing and self.training:
            return checkpoint(block, x, around, use_reentrant=False, preserve_rng_state=False)
        return block(x, around)

    def surroundings(self, tokens: Tokens, draw: Int[Tensor, " B"]) -> Surroundings:
        """Which token may look at which, and the rotary turns where a stream asks for them."""
        allowed = None if tokens.full else may_attend(tokens.valid, tokens.segment)
        turns = rotary_turns(tokens.place, self.head_width, self.rotary_base) if tokens.rotary else None
        return Surroundings(tokens.valid, tokens.stream, allowed, turns, draw)


class OnlyStream(nn.Module):
    """Nothing to tell apart: a row of zeros that is not learned, so that models without such a row can take the rest.

    Weights from elsewhere may have a row, as BERT's token type; it stays as it is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(1, width))

    def forward(self, stream: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """The row, for every token, without a copy."""
        return self.get_buffer("weight").expand(*stream.shape, -1)


def initialise(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases, as MAE has them; embeddings with standard deviation 0.02."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
