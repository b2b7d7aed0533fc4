"""Masked prediction: hide part of every stream and predict it from the rest; a method is a choice of parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from mmpt.config import Component
from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.model import Backbone
from mmpt.objectives import Hidden, Loss, Objective, Prediction, Step
from mmpt.objectives.context import context_of, contexts_of
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.objectives.predictors import Latents, Predictor
from mmpt.objectives.targets import Target
from mmpt.tokens import Batch, Content, Scored, Shown, StreamContext, drop_content, flatten, gather, score


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """The five answers for one stream.

    Args:
        masking: which tokens are hidden.
        corruption: what is shown instead.
        predictor: who predicts.
        target: what, and how wrong it is.
        weight: of this loss in the sum.
        shown_weight: of the loss at tokens that are shown, beside that of the hidden ones; both are divided by the same
            number (the unmasked term of HuBERT's loss, Hsu et al. 2021, equation 2).
        feature_penalty: times the mean square of what an encoder's convolutions give (HuBERT's is 10).
        average: what a loss is divided by: `scored` tokens of the global batch (BERT, MAE), all `valid` tokens, or each
            `sample`'s own scored tokens first and then the samples.
    """

    masking: MaskingSettings
    corruption: Component[Corruption]
    predictor: Component[Predictor]
    target: Component[Target]
    weight: float = 1.0
    shown_weight: float = 0.0
    feature_penalty: float = 0.0
    average: Literal["scored", "valid", "sample"] = "scored"


class StreamObjective(nn.Module):
    """One stream's parts, wired."""

    def __init__(self, name: str, modality: Modality, backbone: Backbone, settings: StreamSettings) -> None:
        super().__init__()
        self.name, self.average, self.weight = name, settings.average, settings.weight
        self.shown_weight, self.feature_penalty = settings.shown_weight, settings.feature_penalty
        encoder, width = backbone.encoder(name), backbone.trunk.width
        self.masking = Masking(modality, settings.masking)
        self.corruption = settings.corruption.build(width)
        self.target = settings.target.build(modality)
        self.predictor = settings.predictor.build(encoder, width, self.target.size)
        if self.corruption.drops and not self.predictor.mixes_tokens:
            raise ConfigError(
                f"objective.streams.{name}: corruption 'drop' leaves hidden tokens out of the trunk, and predictor "
                f"'{settings.predictor.name}' can't place them either; use corruption=replace, or predictor=decoder"
            )

        if self.corruption.drops and self.shown_weight:
            raise ConfigError(
                f"objective.streams.{name}.shown_weight: with corruption 'drop' shown tokens are all that the trunk "
                "gets, and a loss on them asks for a copy; use corruption=replace, or shown_weight=0"
            )
        if self.feature_penalty and not encoder.has_penalty:
            raise ConfigError(
                f"objective.streams.{name}.feature_penalty: this encoder has no convolutions whose output could be "
                "penalised; stream type 'speech' has, so leave it out here"
            )

    def hide(self, context: StreamContext) -> Hidden:
        """The mask, and this micro-batch's part of the denominator."""
        hidden = self.masking(context)
        count = self.masking.count(context.content, context.progress)
        return Hidden(hidden, hidden, count, self._denominator(hidden, context.content))

    def _denominator(self, scored: Bool[Tensor, "B N"], content: Content) -> Float[Tensor, ""]:
        if self.average == "valid":
            return content.valid.sum().float()
        return scored.sum().float() if self.average == "scored" else scored.any(1).sum().float()

    def shown(self, hidden: Hidden, content: Content) -> Scored:
        """The shown tokens that have a target."""
        observed = content.valid & content.observed
        known = content.observed_count is not None and hidden.hidden_count is not None
        count = cast("int", content.observed_count) - cast("int", hidden.hidden_count) if known else None
        return score(observed & ~hidden.hidden, count)

    def loss(
        self, prediction: Float[Tensor, "M P"], target: Shaped[Tensor, "M ..."], scored: Scored
    ) -> tuple[Loss, Float[Tensor, ""]]:
        """The sum that the denominator divides, and the plain sum over tokens for the log."""
        each = self.target.loss(prediction, target)
        rows = scored.valid.shape[0]
        row = flatten(torch.arange(rows, device=each.device).unsqueeze(1).expand(scored.valid.shape), scored)
        weighted = each
        if self.average == "sample":
            weighted = each / scored.valid.sum(1).clamp(min=1)[row]
        return Loss(weighted.sum(), each.new_zeros(rows).index_add(0, row, each.detach())), each.detach().sum()


class MaskedPrediction(Objective):
    """Hide, show, mix, predict, score: every stream with its own parts, all streams in one sequence.

    Args:
        streams: the parts of every stream of the recipe.
    """

    def __init__(
        self, backbone: Backbone, modalities: Mapping[str, Modality], *, streams: dict[str, StreamSettings]
    ) -> None:
        super().__init__()
        for name in modalities:
            if name not in streams:
                raise ConfigError(f"objective.streams: stream '{name}' of the recipe has no entry; add one")
        for name in streams:
            if name not in modalities:
                raise ConfigError(f"objective.streams.{name}: no such stream; the recipe has {', '.join(modalities)}")
        _check_shared(streams)
        self.modalities = dict(modalities)
        self.streams = nn.ModuleDict(
            {name: StreamObjective(name, modalities[name], backbone, streams[name]) for name in modalities}
        )

    def part(self, name: str) -> StreamObjective:
        """One stream's parts."""
        return cast("StreamObjective", self.streams[name])

    def weights(self) -> dict[str, float]:
        """As set, by stream."""
        return {name: self.part(name).weight for name in self.streams}

    @torch.no_grad()
    def hide(self, batch: Batch, progress: float) -> dict[str, Hidden]:
        """Every stream that the batch has."""
        return {name: self.part(name).hide(context) for name, context in contexts_of(batch, progress).items()}

    def forward(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden], progress: float) -> Step:
        """Sums of losses over the scored tokens of each stream."""
        latents, balance, penalties = self._latents(backbone, batch, hidden, progress)
        losses, metrics = {}, {}
        for name, latent in latents.items():
            part, context = self.part(name), context_of(batch, name, progress)
            scored = score(hidden[name].scored, hidden[name].hidden_count)
            prediction = part.predictor(latent, context.content, scored)
            target = part.target(context)
            loss, plain = part.loss(prediction, flatten(gather(target, scored.places), scored), scored)
            if part.shown_weight:
                shown = part.shown(hidden[name], context.content)
                prediction = part.predictor(latent, context.content, shown)
                more, _ = part.loss(prediction, flatten(gather(target, shown.places), shown), shown)
                loss = _sum_of(loss, more, part.shown_weight)
            if part.feature_penalty:
                penalty = part.feature_penalty * cast("Tensor", penalties[name])
                loss = loss._replace(total=loss.total + penalty * hidden[name].denominator)
                metrics[f"{name}/penalty"] = penalty.detach(), torch.ones_like(penalty)
            losses[name] = loss
            metrics[f"{name}/loss"] = plain, scored.valid.sum()
        return Step(losses, balance, metrics)

    def _latents(
        self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden], progress: float
    ) -> tuple[dict[str, Latents], Float[Tensor, ""], dict[str, Tensor | None]]:
        kept = {
            name: drop_content(content, hidden[name].hidden, hidden[name].hidden_count)
            for name, content in batch.streams.items()
            if self.part(name).corruption.drops and backbone.encoder(name).tokenwise
        }
        contents = {name: content for name, (content, _) in kept.items()}
        tokens = backbone.embed(batch._replace(streams={**batch.streams, **contents}))
        shown = {}
        for name, embedded in tokens.items():
            if name in kept:
                shown[name] = Shown(embedded, kept[name][1])
                continue
            content = batch.streams[name]
            context = context_of(batch, name, progress)._replace(
                hidden_count=hidden[name].hidden_count, substitute=partial(backbone.encoder(name).substitute, content)
            )
            shown[name] = self.part(name).corruption(embedded, hidden[name].hidden, context)
        sizes = {name: content.valid.shape[1] for name, content in batch.streams.items()}
        every, balance = backbone.mix(shown, sizes, batch.draw)
        lengths = [part.places.shape[1] for part in shown.values()]
        split = dict(zip(shown, every.x.split(lengths, dim=1), strict=True))
        penalties = {name: embedded.penalty for name, embedded in tokens.items()}
        return {name: Latents(split[name], shown[name], every, batch.draw) for name in shown}, balance, penalties

    def touch(self, backbone: Backbone, batch: Batch) -> Float[Tensor, ""]:
        """A row of padding through encoder, corruption and predictor of every absent stream; the trunk runs anyway."""
        total = batch.draw.new_zeros((), dtype=torch.float32)
        for name in self.streams:
            if name not in batch.streams:
                total = total + self._touch(backbone, name, batch.draw[:1])
        return total

    def _touch(self, backbone: Backbone, name: str, draw: Int[Tensor, " 1"]) -> Float[Tensor, ""]:
        part, encoder = self.part(name), backbone.encoder(name)
        content = self.modalities[name].collate([[]], None).to(draw.device)
        tokens = encoder(content)
        context = StreamContext(content, draw, 1.0, substitute=partial(encoder.substitute, content))
        shown = part.corruption(tokens, torch.zeros_like(content.valid), context)
        shown = encoder.settle(shown, content.valid.shape[1])
        latents = Latents(shown.tokens.x, shown, shown.tokens, draw)
        prediction = part.predictor(latents, content, score(content.valid, None))
        return prediction.float().sum() + shown.tokens.x.float().sum() + shown.tokens.position.float().sum()

    @torch.no_grad()
    def predict(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden]) -> dict[str, Prediction]:
        """For each stream of the batch."""
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


def _check_shared(streams: Mapping[str, StreamSettings]) -> None:
    """A budget that all streams share must be the same for all of them."""
    ratios = {name: settings.masking.ratio for name, settings in streams.items()}
    for name, ratio in ratios.items():
        if isinstance(ratio, Component) and ratio.target.shared:
            other = next((other for other, theirs in ratios.items() if theirs != ratio), None)
            if other is not None:
                raise ConfigError(
                    f"objective.streams.{other}.masking.ratio: '{ratio.name}' of stream '{name}' shares one budget "
                    f"over all streams; give '{other}' the same ratio with the same settings"
                )
