"""Whether two streams that were seen together belong together (image-text matching of FLAVA, ETM of C-MELT)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmpt.errors import ConfigError
from mmpt.objectives.generated_negatives import GeneratedSettings
from mmpt.objectives.loss_prediction import Figures
from mmpt.objectives.pairs import PairLoss


class Matching(PairLoss):
    """Two-way cross-entropy on the mean latents of both streams, side by side.

    A source's `negatives` make the pairs that don't belong together, or the model itself does.

    Args:
        streams, weight: see `PairLoss`.
        generated: every true pair once more, with words that the model filled in and that are not the true ones
            (ViLTA, Wang et al. 2023).
    """

    alone = False

    def __init__(
        self,
        width: int,
        *,
        streams: tuple[str, ...],
        weight: float = 1.0,
        generated: GeneratedSettings | None = None,
    ) -> None:
        super().__init__(streams=streams, weight=weight)
        if generated is not None and generated.stream not in streams:
            raise ConfigError(f"generated.stream: expected {' or '.join(streams)}, got '{generated.stream}'")
        self.generated, self.needs_unmatched = generated, generated is None
        self.head = nn.Linear(2 * width, 2)

    def forward(
        self,
        one: Float[Tensor, "B D"],
        other: Float[Tensor, "B D"],
        there: Bool[Tensor, " B"],
        matched: Bool[Tensor, " B"],
    ) -> tuple[Float[Tensor, " B"], Figures]:
        """Class 1 is a true pair."""
        logits = self.head(torch.cat([one, other], dim=1)).float()
        each = torch.where(there, cross_entropy(logits, matched.long(), reduction="none"), 0.0)
        rows = there.sum().float()
        right = (logits.argmax(dim=1) == matched.long()) & there
        return each, {"loss": (each.detach().sum(), rows), "accuracy": (right.sum().float(), rows)}
