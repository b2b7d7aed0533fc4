"""Two of every four weights of the blocks' linear layers are 0: the form that sparse tensor cores multiply."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mmpt.compress.blocks import with_trunk
from mmpt.compress.methods import Method, Row, Smaller, Work, source_of
from mmpt.downstream.pretrained import load_pretrained
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives.learned_patterns import LearnedPatterns
from mmpt.objectives.patterns import PATTERNS, largest, linear_layers, patterns
from mmpt.settings import Recipe
from mmpt.tokens import Batch

OF, LOGITS = "objective.of.", "objective.logits."  # where a run of learned patterns has the objective's weights


class TwoFourMethod(Method):
    """Weights that are kept are the run's own, to the bit.

    Args:
        by: `learned` takes the patterns of a run with objective `learned_patterns`; `magnitude` keeps the two largest
            of each four, of any run.
        batches, batch_size: of held-out samples that masked losses are compared on, with the same masks.
        split: they are of.
    """

    def __init__(
        self,
        *,
        by: Literal["learned", "magnitude"] = "learned",
        batches: int = 10,
        batch_size: int = 64,
        split: str = "test",
    ) -> None:
        if batches < 1 or batch_size < 1:
            raise ConfigError(f"batches, batch_size: expected at least 1, got {batches} and {batch_size}")
        self.by, self.batches, self.batch_size, self.split = by, batches, batch_size, split

    def smaller(self, work: Work) -> Smaller:
        """The sparse weights, and what the run's masked losses say of them."""
        model = load_pretrained(work.run, step=work.encoder.step).model.to(work.encoder.device)
        objective, recipe = model.objective, work.encoder.recipe
        layers = linear_layers(model.backbone.trunk)
        taken = by_size = {f"backbone.trunk.{name}.weight": _largest_of(layer) for name, layer in layers.items()}
        if self.by == "learned":
            if not isinstance(objective, LearnedPatterns):
                raise ConfigError(
                    "by: 'learned' needs a run with objective 'learned_patterns', and this one has "
                    f"'{recipe.objective.name}'; learn patterns first, or use by=magnitude"
                )
            taken = objective.sparse(model.backbone)
        weights = dict(work.weights)
        if isinstance(objective, LearnedPatterns):  # what comes out is a run of the objective that they were learned by
            recipe = replace(recipe, objective=recipe.objective.settings["of"])
            weights = {name.replace(OF, "objective."): v for name, v in weights.items() if not name.startswith(LOGITS)}
            objective = objective.of
        weights |= {name: value.detach() for name, value in taken.items()}
        plain = MaskedModel(model.backbone, objective).eval()
        batches = self._held_out(work)
        found = {"dense": losses_of(plain, batches)}
        for name, own in {"magnitude": by_size, self.by: taken}.items():
            plain.load_state_dict(own, strict=False)
            found[name] = losses_of(plain, batches)
        changed = [(taken[name] != by_size[name]).float().mean() for name in taken]
        return self._told(with_trunk(recipe), weights, found, taken, float(torch.stack(changed).mean()))

    def _held_out(self, work: Work) -> list[Batch]:
        streams = tuple(work.source.modalities)
        source = source_of(work.manifest.folder, streams, work.encoder, self.split, work.seed)
        return work._replace(source=source).batches(self.batches, self.batch_size)

    def _told(
        self,
        recipe: Recipe,
        weights: dict[str, Tensor],
        found: dict[str, dict[str, float]],
        taken: Mapping[str, Tensor],
        changed: float,
    ) -> Smaller:
        dense = sum(value.numel() for name, value in weights.items() if name.startswith("backbone."))
        sparse = sum(value.numel() for value in taken.values())
        bits = 16 * (dense - sparse / 2) + sparse / 4 * math.log2(len(PATTERNS))
        size = f"{bits / 8192:.0f} ({bits / dense / 16:.0%})"
        rows = [Row("backbone in 16 bit, KiB", f"{2 * dense / 1024:.0f}", size)]
        for name, before in found["dense"].items():
            rows.append(Row(f"masked loss of {name}, {self.split}", f"{before:.4f}", f"{found[self.by][name]:.4f}"))
        lines = [f"2 of 4 weights are 0 in {sparse:,} of {dense:,}; only kernels for that are faster"]
        if self.by == "learned":
            told = ", ".join(f"{name} {loss:.4f}" for name, loss in found["magnitude"].items())
            lines.append(f"by magnitude alone: {told}; {changed:.1%} of the weights differ from it")
        return Smaller(
            recipe, weights, {"losses": found, "sparse": sparse, "changed": changed}, tuple(lines), tuple(rows)
        )


def _largest_of(layer: nn.Linear) -> Tensor:
    return layer.weight * patterns(layer.weight)[largest(layer.weight)].flatten(1)


@torch.no_grad()
def losses_of(model: MaskedModel, batches: Sequence[Batch]) -> dict[str, float]:
    """Mean loss of every objective over these batches, the masks being those of a run's end."""
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    for batch in batches:
        hidden = model.hide(batch, 1.0)
        for name, loss in model.objective(model.backbone, batch, hidden, 1.0).losses.items():
            totals[name] = totals.get(name, 0.0) + float(loss.total)
            counts[name] = counts.get(name, 0.0) + float(hidden[name].denominator)
    return {name: total / max(counts[name], 1e-12) for name, total in totals.items()}
