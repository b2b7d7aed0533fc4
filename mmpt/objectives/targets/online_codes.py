"""Codes of a quantiser that is trained along, by cross-entropy (w2v-BERT, Chung et al. 2021, section 3)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, layer_norm

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.objectives.quantiser import Quantised, Quantiser
from mmpt.objectives.targets import Target
from mmpt.randomness import fold, uniform
from mmpt.tokens import Scored, StreamContext, gather


class OnlineCodesTarget(Target):
    """The likeliest code of each group of what a token is before anything is hidden; `contrast` trains the quantiser.

    Args:
        groups: G, of a product codebook.
        codes: V, of each group.
        size: numbers of the vectors that contrast compares with.
        start, end: of the temperature of the straight-through gradient, along a geometric line.
        rise: the progress at which it gets to the end.
    """

    latent = True
    quantises = True

    def __init__(
        self,
        modality: Modality,
        width: int,
        *,
        groups: int = 2,
        codes: int = 320,
        size: int = 256,
        start: float = 2.0,
        end: float = 0.5,
        rise: float = 1.0,
    ) -> None:
        super().__init__()
        if groups < 1 or codes < 2:
            raise ConfigError(f"groups, codes: expected 1 or more and 2 or more, got {groups} and {codes}")
        if not 0 < end <= start or not 0 < rise <= 1:
            raise ConfigError(
                f"start, end, rise: expected temperatures that fall and stay above 0, and a share of the run, got "
                f"{start}, {end} and {rise}"
            )
        self.quantiser = Quantiser(width, groups, codes, size)
        self.size, self.vector_size = groups * codes, size
        self.start, self.end, self.rise = start, end, rise

    def temperature(self, progress: float) -> float:
        """At this progress."""
        return self.start * (self.end / self.start) ** min(progress / self.rise, 1.0)

    @torch.no_grad()
    def forward(self, context: StreamContext) -> Int[Tensor, "B N G"]:
        """Without noise; nothing that is learned from them reaches the quantiser."""
        return self.quantiser(self._whole(context), None, 1.0).codes

    def quantised(self, context: StreamContext, scored: Scored) -> Quantised:
        """Codes drawn for the scored tokens, with their gradient; the likeliest ones where nothing is trained."""
        x = gather(self._whole(context), scored.places)
        noise = gumbel(context.draw, scored.places, self.size) if self.training else None
        return self.quantiser(x, noise, self.temperature(context.progress))

    def _whole(self, context: StreamContext) -> Float[Tensor, "B N D"]:
        if context.embedded is None:
            raise ConfigError("target 'online_codes' needs tokens of which nothing is hidden in its context")
        x = torch.where(context.content.valid.unsqueeze(2), context.embedded, 0.0)
        return layer_norm(x.float(), x.shape[2:])

    def loss(self, prediction: Float[Tensor, "M P"], target: Int[Tensor, "M G"]) -> Float[Tensor, " M"]:
        """Nats, of all groups together."""
        logits = prediction.float().unflatten(1, (self.quantiser.groups, self.quantiser.codes))
        return cross_entropy(logits.transpose(1, 2), target, reduction="none").sum(dim=1)


def gumbel(draw: Int[Tensor, " B"], places: Int[Tensor, "B Q"], count: int) -> Float[Tensor, "B Q E"]:
    """`count` numbers a place, the same whatever else is looked at."""
    keys = fold(fold(draw, "gumbel").unsqueeze(1), places)
    lots = uniform(fold(keys.unsqueeze(2), torch.arange(count, device=draw.device)))
    return -(-lots.log()).log().float()
