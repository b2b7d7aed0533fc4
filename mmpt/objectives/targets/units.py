"""The k-means unit of the hidden tokens, by cross-entropy (HuBERT, Hsu et al. 2021, section II.B)."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.targets import Target
from mmpt.tokens import StreamContext


class UnitsTarget(Target):
    """One of V clusters a token; the labels come with the data, see `units` of a source."""

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        facts = modality.facts.values.get("units")
        if facts is None:
            raise ConfigError(
                "target 'units' needs labels, and no source of this stream has any; make some with 'mmpt units fit' "
                "and 'mmpt units label', and name them in the source's `units`"
            )
        self.size = int(facts["clusters"])

    def forward(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """The labels; 0 where none is, which is never scored."""
        units = context.content.units
        if units is None:
            raise ConfigError("target 'units' got a batch without labels; it can be trained on a recipe's sources only")
        return units

    def loss(self, prediction: Float[Tensor, "M P"], target: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
        """Nats."""
        return cross_entropy(prediction.float(), target, reduction="none")
