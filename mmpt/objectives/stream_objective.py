"""One stream's part in masked prediction: what of it is hidden, and the loss of each scored token."""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from mmpt.encoders import Modality
from mmpt.model import Backbone
from mmpt.objectives import Guide, Hidden, Loss
from mmpt.objectives.contrast import Contrast
from mmpt.objectives.loss_prediction import Figures, LossPrediction
from mmpt.objectives.mask_tokens import likeness
from mmpt.objectives.masking.algebra import Masking
from mmpt.objectives.masking.importance.score import scores_of
from mmpt.objectives.predictors import Latents, build_predictor
from mmpt.objectives.refusals import check_soft_labels, check_stream
from mmpt.objectives.soft_labels import divergence
from mmpt.objectives.spread import spread
from mmpt.objectives.stream_settings import StreamSettings
from mmpt.objectives.targets import build_target
from mmpt.objectives.targets.online_codes import OnlineCodesTarget
from mmpt.tokens import Content, Scored, StreamContext, flatten, gather, score


class StreamObjective(nn.Module):
    """One stream's parts, wired."""

    def __init__(self, name: str, modality: Modality, backbone: Backbone, settings: StreamSettings) -> None:
        super().__init__()
        self.name, self.average, self.weight = name, settings.average, settings.weight
        self.weighs_rows = settings.row_weight == "scores"
        self.shown_weight, self.feature_penalty = settings.shown_weight, settings.feature_penalty
        encoder, width = backbone.encoder(name), backbone.trunk.width
        self.masking = Masking(modality, settings.masking)
        self.corruption = settings.corruption.build(width)
        self.target = build_target(settings.target, modality, width)
        self.predictor = build_predictor(settings.predictor, encoder, width, self.target.size, self.target.parts)
        self.loss_prediction = None
        if settings.loss_predictor is not None:
            self.loss_prediction = LossPrediction(self.predictor, encoder, width, settings.loss_predictor)
        self.contrast = None
        if settings.contrast is not None and isinstance(self.target, OnlineCodesTarget):
            self.contrast = Contrast(width, self.target.vector_size, settings.contrast)
        check_soft_labels(name, self.target, settings)
        self.soft_labels = None
        if settings.soft_labels is not None:
            self.soft_labels = settings.soft_labels.build(name, modality, self.target)
        has_scores = bool(modality.facts.values.get("scores"))
        check_stream(self, encoder, backbone.trunk.depth, settings, has_scores=has_scores)

    def hide(self, context: StreamContext, of_rows: Float[Tensor, " B"] | None = None) -> Hidden:
        """The mask, and this micro-batch's part of the denominator; `of_rows` weighs the rows' losses."""
        hidden, certain = self.masking.drawn(context)
        count = self.masking.count(context.content, context.progress)
        predicted = context.predicted_loss
        guide = None if predicted is None or certain is None else Guide(predicted, certain)
        weight = of_rows
        if self.weighs_rows:
            known = context.maskable
            of_scores = torch.where(known, scores_of(context), 0.0).sum(1) / known.sum(1).clamp(min=1)
            weight = of_scores if of_rows is None else of_scores * of_rows
        return Hidden(hidden, hidden, count, self._denominator(hidden, context.content, weight), guide, weight)

    def _denominator(
        self, scored: Bool[Tensor, "B N"], content: Content, weight: Float[Tensor, " B"] | None
    ) -> Float[Tensor, ""]:
        if self.average == "valid":
            rows = content.valid.sum(1)
        else:
            rows = scored.sum(1) if self.average == "scored" else scored.any(1)
        return rows.sum().float() if weight is None else (rows * weight).sum()

    def shown(self, hidden: Hidden, content: Content) -> Scored:
        """The shown tokens that have a target."""
        observed = content.valid & content.observed
        known = content.observed_count is not None and hidden.hidden_count is not None
        count = cast("int", content.observed_count) - cast("int", hidden.hidden_count) if known else None
        return score(observed & ~hidden.hidden, count)

    def each(
        self,
        latents: Latents,
        content: Content,
        target: Shaped[Tensor, "B N ..."],
        scored: Scored,
        soft: Float[Tensor, "M V"] | None = None,
    ) -> tuple[Float[Tensor, " M"], Figures]:
        """The loss of each scored token, and figures for the log; `soft` has logarithms of soft labels."""
        prediction = self.predictor(latents, content, scored)
        true = flatten(gather(target, scored.places), scored)
        loss, count = self.target.loss(prediction, true), scored.valid.sum().float()
        figures = {"loss": (loss.detach().sum(), count)}
        if soft is not None and self.soft_labels is not None:
            apart, share = divergence(soft, prediction), self.soft_labels.share
            loss = (1 - share) * loss + share * apart
            figures["soft_divergence"] = apart.detach().sum(), count
        if self.target.latent and true.is_floating_point():
            figures |= {"target_std": spread(true), "prediction_std": spread(prediction)}
        return loss, figures

    def summed(self, each: Float[Tensor, " M"], scored: Scored, weight: Float[Tensor, " B"] | None = None) -> Loss:
        """The sum that the denominator divides; `weight` is of the rows."""
        rows = scored.valid.shape[0]
        row = flatten(torch.arange(rows, device=each.device).unsqueeze(1).expand(scored.valid.shape), scored)
        weighted = each
        if self.average == "sample":
            weighted = each / scored.valid.sum(1).clamp(min=1)[row]
        if weight is not None:
            weighted = weighted * weight[row]
        return Loss(weighted.sum(), each.new_zeros(rows).index_add(0, row, each.detach()))

    def forward(self, latents: Latents, context: StreamContext, hidden: Hidden) -> tuple[Loss, Figures]:
        """All terms of the stream's loss that its scored and shown tokens have, and figures for the log."""
        scored, target = score(hidden.scored, hidden.hidden_count), self.target(context)
        each, figures = self.each(latents, context.content, target, scored, context.soft_labels)
        loss = self.summed(each, scored, hidden.weight)
        if self.shown_weight:
            shown = self.shown(hidden, context.content)
            more, _ = self.each(latents, context.content, target, shown)
            loss = loss.plus(self.summed(more, shown, hidden.weight), self.shown_weight)
        if self.loss_prediction is not None:
            more, of_it = self.loss_prediction(latents, context.content, scored, each, hidden.guide)
            loss = loss.plus(self.summed(more, scored, hidden.weight), self.loss_prediction.weight)
            figures |= of_it
        if self.contrast is not None:
            more, of_it = self._contrasted(self.contrast, latents, context, hidden, scored)
            loss = loss.plus(more, self.contrast.settings.weight)
            figures |= of_it
        if self.target.latent:
            shown = latents.shown
            visible = shown.tokens.valid & ~hidden.hidden.gather(1, shown.places)
            figures["latent_std"] = spread(latents.own, visible)
        return loss, figures

    def of_clean(self, latents: Latents, context: StreamContext, hidden: Hidden) -> tuple[Loss, Figures]:
        """The same tokens' loss where nothing was hidden."""
        scored = score(hidden.scored, hidden.hidden_count)
        each, figures = self.each(latents, context.content, self.target(context), scored)
        return self.summed(each, scored, hidden.weight), {"clean_loss": figures["loss"]}

    def likeness(self, latents: Latents, context: StreamContext, hidden: Hidden) -> tuple[Loss, Figures]:
        """How much hidden tokens are like visible ones where the trunk begins."""
        scored, entered = score(hidden.scored, hidden.hidden_count), cast("Mapping[int, Tensor]", latents.inner)[0]
        each = flatten(likeness(entered, hidden.hidden, context.content, scored), scored)
        figures = {"likeness": (each.detach().sum(), scored.valid.sum().float())}
        return self.summed(each, scored, hidden.weight), figures

    def _contrasted(
        self, contrast: Contrast, latents: Latents, context: StreamContext, hidden: Hidden, scored: Scored
    ) -> tuple[Loss, Figures]:
        quantised = cast("OnlineCodesTarget", self.target).quantised(context, scored)
        inner = cast("Mapping[int, Tensor]", latents.inner)[contrast.settings.layer]
        each, diversity, figures = contrast(gather(inner, scored.places), quantised, scored, context.draw)
        loss = self.summed(flatten(each, scored), scored, hidden.weight)
        more = contrast.settings.diversity * diversity * hidden.denominator
        return loss._replace(total=loss.total + more), figures
