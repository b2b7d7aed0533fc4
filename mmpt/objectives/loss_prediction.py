"""Predicting which hidden tokens are hard, beside what they are (hard patch mining, Wang et al. 2023, section 3.2)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from mmpt.config import Component
from mmpt.encoders import Encoder
from mmpt.errors import ConfigError
from mmpt.objectives import Guide
from mmpt.objectives.predictors import Latents, Predictor, build_predictor
from mmpt.tokens import Content, Scored, flatten, unflatten

Figures = dict[str, tuple[Float[Tensor, ""], Float[Tensor, ""]]]


@dataclass(frozen=True, kw_only=True)
class LossPredictionSettings:
    """A second predictor of the stream, of one number a token.

    Args:
        predictor: of the stream's predictor's type it shares what comes before the first block (the map from the trunk,
            the vector of hidden tokens, the places) and must have its width; of another type it shares nothing.
        form: `relative` learns which of two tokens of a row has the larger loss, `absolute` the loss itself,
            standardised over the row.
        weight: of its loss beside that of the stream.
    """

    predictor: Component[Predictor]
    form: Literal["relative", "absolute"] = "relative"
    weight: float = 1.0


class LossPrediction(nn.Module):
    """One number for each hidden token, trained by the losses that the stream's predictor has there.

    The gradient reaches the trunk, but never the losses. The paper's head gives as many numbers as a patch has and
    takes their mean; this one is linear to one number, the same up to parametrisation.

    Args:
        main: the stream's predictor.
        encoder, width: as the predictor has them.
    """

    def __init__(self, main: Predictor, encoder: Encoder, width: int, settings: LossPredictionSettings) -> None:
        super().__init__()
        self.form, self.weight = settings.form, settings.weight
        self.predictor = build_predictor(settings.predictor, encoder, width, 1)
        if type(self.predictor) is type(main):
            _share_entry(self.predictor, main)

    def forward(
        self, latents: Latents, content: Content, scored: Scored, loss: Float[Tensor, " M"], guide: Guide | None
    ) -> tuple[Float[Tensor, " M"], Figures]:
        """The loss of the prediction, each row's mean at all of its tokens, and figures for the log.

        With as many scored tokens in every row the mean over tokens is the mean over all pairs, the paper's; rows of
        other lengths count by their tokens, so that denominators are those of the stream's loss.
        """
        predicted = unflatten(self.predictor(latents, content, scored).float().squeeze(1), scored)  # B Q
        true = unflatten(loss.detach(), scored)
        compare = relative_loss if self.form == "relative" else absolute_loss
        rows = compare(predicted, true, scored.valid)
        each = flatten(rows.unsqueeze(1).expand(scored.valid.shape), scored)
        figures = {
            "loss_prediction": (each.detach().sum(), scored.valid.sum().float()),
            "spearman": spearman(predicted.detach(), true, scored.valid),
        }
        return each, figures if guide is None else figures | _of_guide(guide, true, scored)


def _share_entry(predictor: Predictor, main: Predictor) -> None:
    for name in main.entry_parts:
        theirs, own = ([*_weights(part, name)] for part in (main, predictor))
        if [weight.shape for weight in theirs] != [weight.shape for weight in own]:
            raise ConfigError(
                f"loss_predictor.predictor: shares '{name}' of the stream's predictor, {_sizes(theirs)}, and has "
                f"{_sizes(own)}; give it the same width, or another type"
            )
        setattr(predictor, name, getattr(main, name))


def _weights(module: nn.Module, name: str) -> list[Tensor]:
    part = getattr(module, name)
    return [part] if isinstance(part, Tensor) else [*part.parameters(), *part.buffers()]


def _sizes(weights: list[Tensor]) -> str:
    return " and ".join(" x ".join(map(str, weight.shape)) for weight in weights)


def relative_loss(
    predicted: Float[Tensor, "B Q"], true: Float[Tensor, "B Q"], valid: Bool[Tensor, "B Q"]
) -> Float[Tensor, " B"]:
    """Cross entropy of which of two tokens has the larger loss, over a row's ordered pairs; equal losses don't count.

    A pair and its reverse cost the same, so one of them is looked at: the one whose first token has the larger loss.
    """
    pairs = (true.unsqueeze(2) > true.unsqueeze(1)) & valid.unsqueeze(2) & valid.unsqueeze(1)  # B Q Q
    cost = softplus(predicted.unsqueeze(1) - predicted.unsqueeze(2)).masked_fill(~pairs, 0.0)
    return cost.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def absolute_loss(
    predicted: Float[Tensor, "B Q"], true: Float[Tensor, "B Q"], valid: Bool[Tensor, "B Q"]
) -> Float[Tensor, " B"]:
    """Mean squared error against losses of mean 0 and unbiased variance 1 over the row; 0 for a row of one token."""
    count = valid.sum(1, keepdim=True)
    mean = (true * valid).sum(1, keepdim=True) / count.clamp(min=1)
    centred = (true - mean) * valid
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    error = (predicted - centred / (variance + 1e-6).sqrt()).square() * valid * (count > 1)
    return error.sum(1) / count.squeeze(1).clamp(min=1)


# ---- figures: sums and counts on the device


@torch.no_grad()
def spearman(
    one: Float[Tensor, "B Q"], other: Float[Tensor, "B Q"], valid: Bool[Tensor, "B Q"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Rank correlations added up over the rows that have one, and their number; ties share their mean rank."""
    a, b = (_centred_ranks(x, valid) for x in (one, other))
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return ((a * b).sum(1) / scale.clamp(min=1e-6)).sum(), (scale > 0).sum().float()


def _centred_ranks(x: Float[Tensor, "B Q"], valid: Bool[Tensor, "B Q"]) -> Float[Tensor, "B Q"]:
    """Half of (how many are smaller - how many are larger): ranks whose mean over the valid ones is 0."""
    signs = (x.unsqueeze(2) - x.unsqueeze(1)).sign()
    return (signs * valid.unsqueeze(1)).sum(2) / 2 * valid


@torch.no_grad()
def _of_guide(guide: Guide, true: Float[Tensor, "B Q"], scored: Scored) -> Figures:
    """How right the teacher was: it looks at whole samples, its predictor learns at hidden tokens."""
    certain = guide.certain.gather(1, scored.places) & scored.valid
    predicted = guide.predicted.gather(1, scored.places)
    overlap, chance, count = hard_overlap(certain, true, scored.valid)
    return {
        "teacher_spearman": spearman(predicted, true, scored.valid),
        "hard_overlap": (overlap, count),
        "hard_overlap_by_chance": (chance, count),
    }


@torch.no_grad()
def hard_overlap(
    certain: Bool[Tensor, "B Q"], true: Float[Tensor, "B Q"], valid: Bool[Tensor, "B Q"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Of n tokens that the teacher chose in a row, those among its n largest losses; by chance; how many there were."""
    count = certain.sum(1, keepdim=True)
    larger = ((true.unsqueeze(1) > true.unsqueeze(2)) & valid.unsqueeze(1)).sum(2)
    found = (certain & (larger < count)).sum()
    chance = count.square() / valid.sum(1, keepdim=True).clamp(min=1)
    return found.float(), chance.sum().float(), count.sum().float()
