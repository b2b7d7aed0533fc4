"""The ids of the hidden tokens, by cross-entropy (BERT, Devlin et al. 2018)."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmpt.encoders import Modality
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError
from mmpt.objectives.targets import Target
from mmpt.tokens import StreamContext


class TokenIdsTarget(Target):
    """One of V classes a token."""

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        if not isinstance(modality, Text):
            raise ConfigError("target 'token_ids' has a meaning for text only; use pixels for images")
        self.size = modality.vocabulary

    def forward(self, context: StreamContext) -> Int[Tensor, "B N"]:
        """The ids themselves."""
        return context.content.values

    def loss(self, prediction: Float[Tensor, "M P"], target: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
        """Nats."""
        return cross_entropy(prediction.float(), target, reduction="none")
