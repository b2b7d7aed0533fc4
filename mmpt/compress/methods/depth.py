"""Fewer blocks, as many as make the best embedding (L3Prune, Thennal et al. 2024)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmpt.compress.blocks import depth_of, first_blocks
from mmpt.compress.methods import Method, Smaller, Work
from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.embedding import Embedding
from mmpt.objectives.views import ViewSettings


class DepthMethod(Method):
    """The first blocks and the final norm stay. Nothing is trained; the run may then go on with another objective.

    The loss of a depth is the contrast of two views of each sample, pooled behind that block by the run's own pool, or
    else by the mean: one complete, in the other a span is missing; of pairs, the two streams. `small` is the best depth
    of the lower half of the blocks, `large` that of the upper half.

    Args:
        depth: `small`, `large`, or a number of blocks.
        batches, batch_size: of samples that losses are taken from; the paper has 100 of 64.
        temperature: that cosines are divided by; the paper multiplies by 20.
        span: tokens that the second view lacks.
    """

    def __init__(
        self,
        *,
        depth: Literal["small", "large"] | int = "large",
        batches: int = 20,
        batch_size: int = 64,
        temperature: float = 0.05,
        span: int = 2,
    ) -> None:
        if batches < 1 or batch_size < 2 or temperature <= 0 or span < 1:
            raise ConfigError(
                "batches, batch_size, temperature, span: expected 1 batch of 2 samples at least, a positive number and "
                f"1 token, got {batches}, {batch_size}, {temperature} and {span}"
            )
        self.depth, self.batches, self.batch_size = depth, batches, batch_size
        self.temperature, self.span = temperature, span

    def smaller(self, work: Work) -> Smaller:
        """The losses of all depths, and the model of the chosen one."""
        depth = depth_of(work.encoder.recipe)
        if isinstance(self.depth, int):
            first_blocks(work.encoder.recipe, {}, self.depth)  # refuses before anything is computed
        elif depth < 2:
            raise ConfigError("depth: the run has one block, and no half of that is left to choose from; give a number")
        losses = self._losses(work).tolist()
        choices = choices_of(losses) if depth > 1 else {}
        chosen = choices[self.depth] if isinstance(self.depth, str) else self.depth
        recipe, weights = first_blocks(work.encoder.recipe, work.weights, chosen)
        told = ", ".join(f"{number} {loss:.3f}" for number, loss in enumerate(losses, start=1))
        advice = "; method.depth=small or a number takes fewer" if chosen == depth else ""
        lines = (f"loss by depth: {told}", f"{chosen} of {depth} blocks stay{advice}")
        return Smaller(recipe, weights, {"losses": losses, "choices": choices, "depth": chosen}, lines)

    @torch.no_grad()
    def _losses(self, work: Work) -> Float[Tensor, " L"]:
        view = ViewSettings(length=self.span, shortest=self.span + 1, corruption=component(Corruption, "drop"))
        objective = Embedding(
            work.encoder.backbone,
            work.encoder.modalities,
            streams=dict.fromkeys(work.encoder.modalities, view),
            noise=0.0,
            temperature=self.temperature,
            own_side=False,
            apart=True,
        ).eval()
        if work.encoder.own is not None:
            objective.pool = work.encoder.own
        batches = work.batches(self.batches, self.batch_size)
        return torch.stack([objective.by_layer(work.encoder.backbone, batch) for batch in batches]).mean(0)


def choices_of(losses: list[float]) -> dict[str, int]:
    """The best depth, from 1, of each half of the blocks; of an odd number the upper half has one more."""
    half = len(losses) // 2
    lower, upper = range(1, half + 1), range(half + 1, len(losses) + 1)
    return {name: min(part, key=lambda n: losses[n - 1]) for name, part in (("small", lower), ("large", upper))}
