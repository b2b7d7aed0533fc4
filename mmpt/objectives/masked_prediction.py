"""Masked prediction: hide part of every stream and predict it from the rest; a method is a choice of parts."""

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from mmpt.config import Component
from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.objectives import Guide, Hidden, Loss, Objective, Prediction, Step
from mmpt.objectives.context import context_of, contexts_of
from mmpt.objectives.contrast import Contrast
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.generated_negatives import Generators, false_pairs, filled_rows
from mmpt.objectives.latents import Seen, latents_of
from mmpt.objectives.loss_prediction import Figures, LossPrediction
from mmpt.objectives.mask_tokens import LayerWeights, MaskTokenSettings, likeness
from mmpt.objectives.masking.algebra import Masking
from mmpt.objectives.masking.importance.score import scores_of
from mmpt.objectives.paired import Paired
from mmpt.objectives.pairs import PairLoss
from mmpt.objectives.predictors import Latents, build_predictor
from mmpt.objectives.refusals import (
    check_generated,
    check_mask_tokens,
    check_pairs,
    check_shared,
    check_soft_labels,
    check_stream,
    check_swap,
)
from mmpt.objectives.several_masks import first_mask, of_samples, repeated, repeated_rows
from mmpt.objectives.soft_labels import divergence
from mmpt.objectives.spread import spread
from mmpt.objectives.stream_settings import StreamSettings
from mmpt.objectives.swap import SwapSettings
from mmpt.objectives.targets import build_target
from mmpt.objectives.targets.online_codes import OnlineCodesTarget
from mmpt.objectives.teacher import Followed, Teacher, TeacherSettings
from mmpt.objectives.touch import touched
from mmpt.tokens import Batch, Content, Scored, StreamContext, flatten, gather, score


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
            loss = _sum_of(loss, self.summed(more, shown, hidden.weight), self.shown_weight)
        if self.loss_prediction is not None:
            more, of_it = self.loss_prediction(latents, context.content, scored, each, hidden.guide)
            loss = _sum_of(loss, self.summed(more, scored, hidden.weight), self.loss_prediction.weight)
            figures |= of_it
        if self.contrast is not None:
            more, of_it = self._contrasted(self.contrast, latents, context, hidden, scored)
            loss = _sum_of(loss, more, self.contrast.settings.weight)
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


class MaskedPrediction(Objective):
    """Hide, show, mix, predict, score: every stream with its own parts, all streams in one sequence.

    Args:
        streams: the parts of every stream of the recipe.
        teacher: how the copy follows that importance `predicted_loss` and target `teacher_latents` ask.
        masks_per_sample: masks that a sample is trained with in one step; the teacher looks at it once.
        swap: the complete row goes through the trunk, too, and exchanges visible tokens with the masked one.
        pairs: losses on whether two streams of a row belong together, by a name of their own.
        unmatched_weight: of the masked losses of rows in which a source's `negatives` replaced one half; FLAVA leaves
            them out (Singh et al. 2022), C-MELT counts them.
        mask_tokens: keeps them unlike data and, in early blocks, out of sight (inspired by MTO).
    """

    def __init__(
        self,
        backbone: Backbone,
        modalities: Mapping[str, Modality],
        *,
        streams: dict[str, StreamSettings],
        teacher: TeacherSettings | None = None,
        masks_per_sample: int = 1,
        swap: SwapSettings | None = None,
        pairs: dict[str, Component[PairLoss]] | None = None,
        unmatched_weight: float = 0.0,
        mask_tokens: MaskTokenSettings | None = None,
    ) -> None:
        super().__init__()
        if masks_per_sample < 1:
            raise ConfigError(f"objective.masks_per_sample: expected at least 1, got {masks_per_sample}")
        if unmatched_weight < 0:
            raise ConfigError(f"objective.unmatched_weight: expected 0 or more, got {unmatched_weight}")
        self.masks, self.swap, self.unmatched_weight = masks_per_sample, swap, unmatched_weight
        for name in modalities:
            if name not in streams:
                raise ConfigError(f"objective.streams: stream '{name}' of the recipe has no entry; add one")
        for name in streams:
            if name not in modalities:
                raise ConfigError(f"objective.streams.{name}: no such stream; the recipe has {', '.join(modalities)}")
        check_shared(streams)
        self.modalities = dict(modalities)
        self.streams = nn.ModuleDict(
            {name: StreamObjective(name, modalities[name], backbone, streams[name]) for name in modalities}
        )
        check_mask_tokens(mask_tokens, {name: self.part(name) for name in modalities})
        self.muting = None if mask_tokens is None else LayerWeights(backbone.trunk.depth, mask_tokens)
        self.paired = Paired(pairs or {}, list(modalities), backbone.trunk.width)
        self.generators = Generators(self.paired.losses(), self.modalities)
        check_generated(self.paired.losses(), self.streams)
        check_pairs(len(self.paired), masks_per_sample, swap)
        check_swap(swap, {name: self.part(name) for name in modalities}, backbone.trunk.depth)
        self.guided = [name for name in modalities if self.part(name).masking.importance.guided]
        self.taught_layers = max(self.part(name).target.layers for name in modalities)
        asked = bool(self.guided or self.taught_layers)
        if teacher is not None and not asked:
            raise ConfigError(
                "objective.teacher: no stream asks one; use importance 'predicted_loss' or target 'teacher_latents', "
                "or leave it out"
            )
        self.teacher = Teacher(self._followed(backbone), teacher or TeacherSettings()) if asked else None

    def _followed(self, backbone: Backbone) -> Followed:
        """What the teacher is a copy of; no part of this module, or its weights would be there twice."""
        predictions = {name: self.part(name).loss_prediction for name in self.guided}
        predictors = {name: own.predictor for name, own in predictions.items() if own is not None}
        return Followed(backbone, self._corruptions(), predictors)

    def part(self, name: str) -> StreamObjective:
        """One stream's parts."""
        return cast("StreamObjective", self.streams[name])

    def weights(self) -> dict[str, float]:
        """As set, by stream."""
        pairs = {name: pair.weight for name, pair in self.paired.losses().items()}
        return {name: self.part(name).weight for name in self.streams} | pairs

    @torch.no_grad()
    def hide(self, batch: Batch, progress: float) -> dict[str, Hidden]:
        """Every stream that the batch has."""
        every = repeated(batch, self.masks)
        contexts = contexts_of(every, progress)
        if self.teacher is not None:
            for name, predicted in self.teacher.look(batch, progress).items():
                contexts[name] = contexts[name]._replace(predicted_loss=repeated_rows(predicted, self.masks))
        of_rows = None if every.matched is None else torch.where(every.matched, 1.0, self.unmatched_weight)
        hidden = {name: self.part(name).hide(context, of_rows) for name, context in contexts.items()}
        hidden |= self.paired.hide(batch, hidden)
        return hidden | self.generators.hide(self.paired.losses(), batch, hidden, progress)

    def after_update(self, backbone: Backbone, progress: float) -> None:
        """The teacher follows."""
        if self.teacher is not None:
            self.teacher.follow(self._followed(backbone), progress)

    def forward(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden], progress: float) -> Step:
        """Sums of losses over the scored tokens of each stream."""
        contexts, samples = self._contexts(batch, progress), len(batch.uid)
        every = repeated(batch, self.masks)
        seen = self._latents(backbone, every, hidden, progress, self.swap)
        losses, metrics = {}, seen.output.metrics(list(backbone.numbers))
        for name, latent in seen.latents.items():
            part, context = self.part(name), contexts[name]
            if part.soft_labels is not None:
                context = context._replace(soft_labels=part.soft_labels(every, hidden[name], progress))
            if not part.corruption.drops:
                context = context._replace(embedded=seen.embedded[name].x)
            loss, figures = part(latent, context, hidden[name])
            if self.muting is not None:
                more, of_it = part.likeness(latent, context, hidden[name])
                loss, figures = _sum_of(loss, more, self.muting.settings.singularity), figures | of_it
            if self.swap is not None:
                more, of_it = part.of_clean(seen.clean[name], context, hidden[name])
                loss, figures = _sum_of(loss, more, self.swap.clean_weight), figures | of_it
            if part.feature_penalty:
                penalty = part.feature_penalty * cast("Tensor", seen.embedded[name].penalty)
                loss = loss._replace(total=loss.total + penalty * hidden[name].denominator)
                figures["penalty"] = penalty.detach(), torch.ones_like(penalty)
            losses[name] = of_samples(loss, samples)
            metrics |= {f"{name}/{figure}": value for figure, value in figures.items()}
        of_pairs, figures = self.paired.score(backbone, batch, hidden, seen)
        losses, metrics = losses | of_pairs, metrics | figures
        parts = {name: self.part(name) for name in batch.streams}
        for name, wrong in self.generators.wrong(self.paired.losses(), backbone, parts, batch, hidden, progress):
            again = self._latents(backbone, wrong, hidden, progress).latents
            more, figures = false_pairs(name, self.paired.losses()[name], again, filled_rows(hidden[name], batch))
            losses[name], metrics = _sum_of(losses[name], more, 1.0), metrics | figures
        return Step(losses, seen.output.balance, seen.output.router_z, metrics)

    def _contexts(self, batch: Batch, progress: float) -> dict[str, StreamContext]:
        """With what the teacher says of the streams whose target asks it."""
        every = repeated(batch, self.masks)
        contexts = {name: context_of(every, name, progress) for name in batch.streams}
        asking = {name: self.part(name).target.layers for name in batch.streams if self.part(name).target.layers}
        if self.teacher is not None and asking:
            taught = self.teacher.taught(batch, max(asking.values()))
            for name, layers in asking.items():
                own = repeated_rows(taught[name][-layers:], self.masks, dim=1)
                contexts[name] = contexts[name]._replace(taught=own)
        return contexts

    def _latents(
        self,
        backbone: Backbone,
        batch: Batch,
        hidden: dict[str, Hidden],
        progress: float,
        swap: SwapSettings | None = None,
    ) -> Seen:
        contrasts = [self.part(name).contrast for name in batch.streams]
        layers = {contrast.settings.layer for contrast in contrasts if contrast is not None}
        layers.update(*(self.part(name).predictor.layers for name in batch.streams))
        if self.muting is not None:
            layers.add(0)
        return latents_of(backbone, self._corruptions(), batch, hidden, progress, layers, swap, self.muting)

    def _corruptions(self) -> dict[str, Corruption]:
        return {name: self.part(name).corruption for name in self.streams}

    def touch(self, backbone: Backbone, batch: Batch) -> Float[Tensor, ""]:
        """A row of padding through encoder, corruption and predictor of every absent stream; the trunk runs anyway."""
        total = self.paired.touch(batch, backbone.trunk.width)
        for name in self.streams:
            if name not in batch.streams:
                total = total + touched(self.part(name), backbone.encoder(name), self.modalities[name], batch.draw[:1])
        return total

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden]) -> dict[str, Prediction]:
        """For each stream of the batch, behind the first mask of each sample."""
        hidden = {name: first_mask(of_stream, len(batch.uid)) for name, of_stream in hidden.items()}
        latents, *_ = self._latents(backbone, batch, hidden, progress=1.0)
        result = {}
        for name, latent in latents.items():
            scored = score(hidden[name].scored, hidden[name].hidden_count)
            prediction = self.part(name).predictor(latent, batch.streams[name], scored)
            rows = torch.arange(len(batch.uid), device=prediction.device).unsqueeze(1).expand(scored.places.shape)
            result[name] = Prediction(
                hidden[name].hidden, prediction, flatten(rows, scored), flatten(scored.places, scored)
            )
        return result


def _sum_of(loss: Loss, more: Loss, weight: float) -> Loss:
    return Loss(loss.total + weight * more.total, loss.rows + weight * more.rows)
