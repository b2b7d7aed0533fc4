"""Telling the code of a hidden token from those of others, at a block of the trunk (w2v-BERT, Chung et al. 2021)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from mmpt.objectives.loss_prediction import Figures
from mmpt.objectives.quantiser import Quantised, diversity_loss, perplexity
from mmpt.randomness import uniform_rows
from mmpt.tokens import Scored


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """A second loss of a stream with target `online_codes` (wav2vec 2.0, Baevski et al. 2020, section 3.2).

    Args:
        layer: the block, from 1, whose output is compared; those above it are left to predicting the codes.
        negatives: codes of other hidden tokens of the row that are drawn for each token.
        temperature: that cosines are divided by.
        size: numbers that tokens and codes are compared in.
        weight: of the loss beside the stream's.
        diversity: weight of the loss of unevenly used codes beside the contrastive one. It is taken over each
            micro-batch by itself, since it is no sum over tokens.
    """

    layer: int
    negatives: int = 100
    temperature: float = 0.1
    size: int = 256
    weight: float = 1.0
    diversity: float = 0.1

    def __post_init__(self) -> None:
        for name in ("layer", "negatives", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature: expected above 0, got {self.temperature}")


class Contrasted(NamedTuple):
    """The losses and figures of one micro-batch."""

    each: Float[Tensor, "B Q"]  # of every scored token; 0 where there is padding or no other token in the row
    diversity: Float[Tensor, ""]
    figures: Figures


class Contrast(nn.Module):
    """Inner latents and codes, each mapped to what they are compared in.

    Args:
        width: D, of the latents. vector_size: of the codes' vectors.
    """

    def __init__(self, width: int, vector_size: int, settings: ContrastSettings) -> None:
        super().__init__()
        self.settings = settings
        self.of_latents = nn.Linear(width, settings.size)
        self.of_codes = nn.Linear(vector_size, settings.size)

    def forward(
        self, latents: Float[Tensor, "B Q D"], quantised: Quantised, scored: Scored, draw: Int[Tensor, " B"]
    ) -> Contrasted:
        """Cross-entropy of the token's own code among those of the negatives; equal codes are no negatives."""
        ours, theirs = self.of_latents(latents), self.of_codes(quantised.vectors)
        with torch.autocast(ours.device.type, enabled=False):
            cosines = normalize(ours.float(), dim=2) @ normalize(theirs.float(), dim=2).transpose(1, 2)  # B Q Q
        logits = cosines / self.settings.temperature
        chosen, there = negatives(draw, scored.valid, self.settings.negatives)
        same = (quantised.codes.unsqueeze(2) == quantised.codes.unsqueeze(1)).all(dim=3)
        own = logits.diagonal(dim1=1, dim2=2).unsqueeze(2)
        others = logits.gather(2, chosen).masked_fill(~there | same.gather(2, chosen), -torch.inf)
        each = torch.cat([own, others], dim=2).logsumexp(dim=2) - own.squeeze(2)
        diversity = diversity_loss(quantised.shares, scored.valid)
        right = (own > others).all(dim=2) & scored.valid
        return Contrasted(each, diversity, _figures(each, diversity, right, quantised, scored.valid))

    def touch(self, latents: Float[Tensor, "B K D"], quantised: Quantised) -> Float[Tensor, ""]:
        """A number that depends on all weights."""
        return self.of_latents(latents).float().sum() + self.of_codes(quantised.vectors).float().sum()


def negatives(
    draw: Int[Tensor, " B"], valid: Bool[Tensor, "B Q"], count: int
) -> tuple[Int[Tensor, "B Q count"], Bool[Tensor, "B Q count"]]:
    """For each scored token `count` others of its row, drawn with replacement, and whether there are any.

    The valid ones of a row come first.
    """
    rows, size = valid.shape
    others = (valid.sum(1) - 1).clamp(min=0).view(rows, 1, 1)
    lots = uniform_rows(draw, size * count, "negatives").view(rows, size, count)
    place = torch.arange(size, device=draw.device).view(1, size, 1)
    chosen = (lots * others).long()
    chosen = (chosen + (chosen >= place).long()).clamp(max=size - 1)
    return chosen, ((others > 0) & valid.unsqueeze(2)).expand(chosen.shape)


@torch.no_grad()
def _figures(
    each: Float[Tensor, "B Q"],
    diversity: Float[Tensor, ""],
    right: Bool[Tensor, "B Q"],
    quantised: Quantised,
    valid: Bool[Tensor, "B Q"],
) -> Figures:
    """Perplexity and share of the codes in use are those of a micro-batch, a mean over groups."""
    count = valid.sum().float()
    used = one_hot(quantised.codes, quantised.shares.shape[3]).float()
    in_use = torch.where(valid[:, :, None, None], used, 0.0).sum((0, 1)) > 0
    return {
        "contrast": (each.sum(), count),
        "contrast_accuracy": (right.sum().float(), count),
        "diversity": (diversity * count, count),
        "code_perplexity": (perplexity(used, valid).mean() * count, count),
        "codes_used": (in_use.float().mean() * count, count),
    }
