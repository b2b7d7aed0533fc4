"""What no stream of masked prediction can be: combinations that are refused when the model is built."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmpt.config import Component
from mmpt.encoders import Encoder
from mmpt.errors import ConfigError

if TYPE_CHECKING:
    from mmpt.objectives.masked_prediction import StreamObjective, StreamSettings


def check_stream(part: "StreamObjective", encoder: Encoder, depth: int, settings: "StreamSettings") -> None:
    """Raises ConfigError where the parts of a stream don't go together."""
    name = f"objective.streams.{part.name}"
    _check_predictors(name, part, settings)
    if part.masking.importance.guided and part.loss_prediction is None:
        raise ConfigError(
            f"{name}.masking.importance: '{settings.masking.importance.name}' asks a teacher, and the stream has no "
            "loss_predictor that it could be a copy of; add one, or use importance=uniform"
        )
    if part.corruption.drops and part.shown_weight:
        raise ConfigError(
            f"{name}.shown_weight: with corruption 'drop' shown tokens are all that the trunk gets, and a loss on them "
            "asks for a copy; use corruption=replace, or shown_weight=0"
        )
    if part.feature_penalty and not encoder.has_penalty:
        raise ConfigError(
            f"{name}.feature_penalty: this encoder has no convolutions whose output could be penalised; stream type "
            "'speech' has, so leave it out here"
        )
    if part.target.layers > depth:
        raise ConfigError(f"{name}.target.layers: expected 1 to {depth}, the trunk's depth, got {part.target.layers}")


def _check_predictors(name: str, part: "StreamObjective", settings: "StreamSettings") -> None:
    more = [settings.loss_predictor.predictor] if settings.loss_predictor else []
    for predictor in (settings.predictor, *more):
        if part.corruption.drops and not predictor.target.mixes_tokens:
            raise ConfigError(
                f"{name}: corruption 'drop' leaves hidden tokens out of the trunk, and predictor '{predictor.name}' "
                "can't place them either; use corruption=replace, or predictor=decoder"
            )


def check_shared(streams: Mapping[str, "StreamSettings"]) -> None:
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
