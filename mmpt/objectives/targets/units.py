"""The k-means unit of the hidden tokens, by cross-entropy (HuBERT, Hsu et al. 2021, section II.B)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.targets import Target
from mmpt.tokens import StreamContext


class UnitsTarget(Target):
    """One of V clusters a token; the labels come with the data, see `units` of a source.

    Of several label sets the losses add, as in fairseq (MS-HuBERT, Yadav et al. 2024, has them for several layers).

    Args:
        weights: of the loss of each label set; 1 each by default.
    """

    def __init__(self, modality: Modality, *, weights: tuple[float, ...] = ()) -> None:
        super().__init__()
        facts = modality.facts.values.get("units")
        if facts is None:
            raise ConfigError(
                "target 'units' needs labels, and no source of this stream has any; make some with 'mmpt units fit' "
                "and 'mmpt units label', and name them in the source's `units`"
            )
        self.parts = tuple(int(own["clusters"]) for own in facts)
        self.size = sum(self.parts)
        self.weights = weights or (1.0,) * len(self.parts)
        if len(self.weights) != len(self.parts) or min(self.weights) < 0:
            raise ConfigError(
                f"weights: expected a number, 0 or more, for each of {len(self.parts)} label sets, got {weights}"
            )

    def forward(self, context: StreamContext) -> Int[Tensor, "B N U"]:
        """The labels; 0 where none is, which is never scored."""
        units = context.content.units
        if units is None:
            raise ConfigError("target 'units' got a batch without labels; it can be trained on a recipe's sources only")
        return units

    def loss(self, prediction: Float[Tensor, "M P"], target: Int[Tensor, "M U"]) -> Float[Tensor, " M"]:
        """Nats, of all label sets together."""
        sets = zip(self.weights, prediction.float().split(self.parts, dim=1), target.unbind(1), strict=True)
        return torch.stack([w * cross_entropy(own, units, reduction="none") for w, own, units in sets]).sum(0)
