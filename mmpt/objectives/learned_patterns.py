"""Learn which two of four weights to keep, by the losses that a run was trained with (MaskLLM, Fang et al. 2024).

All weights are frozen; `mmpt compress two_four` makes the sparse run of it.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from mmpt.config import Component
from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.objectives import Hidden, Loss, Objective, Prediction, Step
from mmpt.objectives.patterns import SPREAD, draw_of, hard, largest, linear_layers, prior, soft
from mmpt.objectives.teacher import Teacher
from mmpt.tokens import Batch
from mmpt.trunk.transformer import Transformer

KEPT = "kept"


class _Call(nn.Module):
    """An objective on a backbone, as one module whose weights can be replaced for a call."""

    def __init__(self, backbone: Backbone, objective: Objective) -> None:
        super().__init__()
        self.backbone, self.objective = backbone, objective

    def forward(self, what: str, *arguments: object) -> object:
        """Call the objective, or a method of it."""
        own = self.objective if what == "forward" else getattr(self.objective, what)
        return own(self.backbone, *arguments)


class LearnedPatterns(Objective):
    """Logits of the six patterns for every group of four along the inputs of each linear layer of the blocks.

    Args:
        of: the objective of the run that `init_from` names, whose losses the patterns are learned by.
        temperature: of the softmax, at the first and last step, along a line between.
        scale: that logits are multiplied by, likewise.
        strength: of the prior that weight magnitudes are; 0 is none.
        kept_weight: of the reward for large weights that stay, which falls to 0 along a line.
    """

    heir = "of"
    reads_weights = True

    def __init__(
        self,
        backbone: Backbone,
        modalities: Mapping[str, Modality],
        *,
        of: Component[Objective],
        temperature: tuple[float, float] = (4.0, 0.05),
        scale: tuple[float, float] = (100.0, 500.0),
        strength: float = 3.0,
        kept_weight: float = 1e-5,
    ) -> None:
        super().__init__()
        if min(temperature) <= 0 or min(scale) <= 0 or strength < 0 or kept_weight < 0:
            raise ConfigError(
                "objective.temperature, scale, strength, kept_weight: expected positive pairs and 0 or more, got "
                f"{list(temperature)}, {list(scale)}, {strength} and {kept_weight}"
            )
        trunk = backbone.trunk
        if isinstance(trunk, Transformer) and trunk.checkpointing:
            raise ConfigError("trunk.checkpointing: blocks are computed again with other weights; set it to false")
        self.temperature, self.scale = temperature, scale
        self.strength, self.kept_weight = strength, kept_weight
        layers = linear_layers(trunk)
        self.names = list(layers)
        self.of = of.build(backbone, modalities)
        if any(isinstance(part, Teacher) for part in self.of.modules()):
            raise ConfigError("objective.of: an averaged teacher has nothing to follow where weights are frozen")
        backbone.requires_grad_(False)
        self.of.requires_grad_(False)
        self.one_document, self.compares_rows = self.of.one_document, self.of.compares_rows
        shapes = [(layer.out_features, layer.in_features // 4, 6) for layer in layers.values()]
        self.logits = nn.ParameterList([nn.Parameter(SPREAD * torch.randn(shape)) for shape in shapes])

    def weights(self) -> dict[str, float]:
        """The run's own, and the reward's."""
        return self.of.weights() | ({KEPT: self.kept_weight} if self.kept_weight else {})

    @torch.no_grad()
    def hide(self, batch: Batch, progress: float) -> dict[str, Hidden]:
        """As the run's objective does; the reward is a mean over micro-batches."""
        hidden = self.of.hide(batch, progress)
        if not self.kept_weight:
            return hidden
        none = torch.zeros_like(batch.uid, dtype=torch.bool).unsqueeze(1)
        return hidden | {KEPT: Hidden(none, none, 0, torch.ones((), device=batch.uid.device))}

    def forward(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden], progress: float) -> Step:
        """The losses of the thinned-out model: softly while patterns are learned, by the likeliest otherwise."""
        thinned, figures, kept = {}, [], []
        for number, name, weight, logits in self._layers(backbone):
            shares = None
            if self.training:
                scale, temperature = (a + (b - a) * progress for a, b in (self.scale, self.temperature))
                share, shares = soft(logits, scale, temperature, draw_of(batch.position, number))
            else:
                share = hard(logits)
            thinned[name] = weight * share.to(weight.dtype)
            kept.append(thinned[name].float().square().sum())
            figures.append(_figures(weight, logits, shares))
        step = cast("Step", self._call(backbone, thinned, "forward", batch, hidden, progress))
        losses = dict(step.losses)
        if self.kept_weight:
            reward = -(1 - progress) * torch.stack(kept).sum()
            losses[KEPT] = Loss(reward, torch.zeros_like(batch.uid, dtype=torch.float32))
        names = ("changed", "certain")
        sums = {f"patterns/{n}": tuple(map(sum, zip(*(own[n] for own in figures), strict=True))) for n in names}
        return step._replace(losses=losses, metrics={**step.metrics, **cast("dict", sums)})

    def _layers(self, backbone: Backbone) -> Iterator[tuple[int, str, Tensor, Tensor]]:
        """Number, name of the weight in `_Call`, weight and logits of every layer."""
        layers = linear_layers(backbone.trunk)
        for number, name in enumerate(self.names):
            weight = layers[name].weight
            logits = self.logits[number] + prior(weight, self.strength)
            yield number, f"backbone.trunk.{name}.weight", weight, logits

    def _call(self, backbone: Backbone, thinned: dict[str, Tensor], what: str, *arguments: object) -> object:
        return functional_call(_Call(backbone, self.of), thinned, (what, *arguments))

    @torch.no_grad()
    def sparse(self, backbone: Backbone) -> dict[str, Float[Tensor, "O I"]]:
        """The weights with the likeliest patterns, by their names in a model."""
        return {name: weight * hard(logits) for _, name, weight, logits in self._layers(backbone)}

    def touch(self, backbone: Backbone, batch: Batch) -> Float[Tensor, ""]:
        """Nothing: the blocks run in every step, and nothing else is trained."""
        return batch.draw.new_zeros((), dtype=torch.float32)

    def after_update(self, backbone: Backbone, progress: float) -> None:
        """Nothing follows the weights, which stay."""

    def predict(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden]) -> dict[str, Prediction]:
        """Of the sparse model."""
        return cast("dict[str, Prediction]", self._call(backbone, self.sparse(backbone), "predict", batch, hidden))


@torch.no_grad()
def _figures(
    weight: Float[Tensor, "O I"], logits: Float[Tensor, "O G 6"], shares: Float[Tensor, "O G 6"] | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """`changed`: groups whose pattern is no longer that of magnitude. `certain`: share of the likeliest pattern."""
    count = torch.full((), float(logits.shape[0] * logits.shape[1]), device=logits.device)
    changed = (logits.argmax(2) != largest(weight)).sum().float()
    return {"changed": (changed, count), "certain": (count if shares is None else shares.amax(2).sum(), count)}
