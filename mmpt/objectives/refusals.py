"""What no stream of masked prediction can be: combinations that are refused when the model is built."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, cast

from torch import nn

from mmpt.config import Component
from mmpt.encoders import Encoder
from mmpt.errors import ConfigError
from mmpt.objectives.mask_tokens import MaskTokenSettings
from mmpt.objectives.pairs import PairLoss
from mmpt.objectives.stream_settings import StreamSettings
from mmpt.objectives.swap import SwapSettings
from mmpt.objectives.targets import Target
from mmpt.objectives.targets.token_ids import TokenIdsTarget
from mmpt.objectives.targets.units import UnitsTarget

if TYPE_CHECKING:
    from mmpt.objectives.stream_objective import StreamObjective

CLASSES = (TokenIdsTarget, UnitsTarget)


def check_stream(
    part: "StreamObjective", encoder: Encoder, depth: int, settings: StreamSettings, *, has_scores: bool
) -> None:
    """Raises ConfigError where the parts of a stream don't go together."""
    name = f"objective.streams.{part.name}"
    _check_predictors(name, part, settings)
    _check_layers(name, part, depth)
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
    if settings.contrast is not None or part.target.quantises:
        _check_contrast(name, part, depth, settings)
    if part.weighs_rows and not has_scores:
        raise ConfigError(
            f"{name}.row_weight: no source of this stream has a scorer's confidence; make some with 'mmpt units score' "
            "and name the folder in the source's `scores`, or leave it out"
        )
    if part.target.layers > depth:
        raise ConfigError(f"{name}.target.layers: expected 1 to {depth}, the trunk's depth, got {part.target.layers}")


def _check_predictors(name: str, part: "StreamObjective", settings: StreamSettings) -> None:
    more = [settings.loss_predictor.predictor] if settings.loss_predictor else []
    for predictor in (settings.predictor, *more):
        if part.corruption.drops and not predictor.target.mixes_tokens:
            raise ConfigError(
                f"{name}: corruption 'drop' leaves hidden tokens out of the trunk, and predictor '{predictor.name}' "
                "can't place them either; use corruption=replace, or predictor=decoder"
            )


def _check_layers(name: str, part: "StreamObjective", depth: int) -> None:
    wrong = [layer for layer in part.predictor.layers if not 1 <= layer <= depth]
    if wrong:
        raise ConfigError(f"{name}.predictor.layers: expected 1 to {depth}, the trunk's depth, got {wrong[0]}")
    if part.predictor.layers and depth not in part.predictor.layers:
        raise ConfigError(
            f"{name}.predictor.layers: nothing is predicted from block {depth}, the last, so that blocks above "
            f"{max(part.predictor.layers)} would never be trained; name it for one label set"
        )
    if part.loss_prediction is not None and part.loss_prediction.predictor.layers:
        raise ConfigError(
            f"{name}.loss_predictor.predictor.layers: what a teacher expects is read from the trunk's output; leave it "
            "out"
        )


def _check_contrast(name: str, part: "StreamObjective", depth: int, settings: StreamSettings) -> None:
    if settings.contrast is None:
        raise ConfigError(
            f"{name}.target: '{settings.target.name}' has a quantiser that only a contrastive loss trains, and the "
            "stream has none; add `contrast`, or use target=units"
        )
    if not part.target.quantises:
        raise ConfigError(
            f"{name}.contrast: compares with the codes of a quantiser, and target '{settings.target.name}' has none; "
            "use target=online_codes, or leave it out"
        )
    if part.corruption.drops:
        raise ConfigError(
            f"{name}.contrast: compares what a block makes of hidden tokens, and corruption 'drop' leaves them out of "
            "the trunk; use corruption=noise or replace"
        )
    if settings.contrast.layer > depth:
        raise ConfigError(
            f"{name}.contrast.layer: expected 1 to {depth}, the trunk's depth, got {settings.contrast.layer}"
        )


def check_soft_labels(name: str, target: Target, settings: StreamSettings) -> None:
    """Raises ConfigError where there are no classes, or several sets of them."""
    if settings.soft_labels is not None and (not isinstance(target, CLASSES) or len(target.parts) > 1):
        raise ConfigError(
            f"objective.streams.{name}.soft_labels: they are of one set of classes, and target "
            f"'{settings.target.name}' of this stream has none or several; use token_ids or one set of units, or leave "
            "them out"
        )


def check_mask_tokens(settings: MaskTokenSettings | None, parts: Mapping[str, "StreamObjective"]) -> None:
    """Where hidden tokens are dropped there are no mask tokens."""
    for name, part in parts.items() if settings is not None else ():
        if part.corruption.drops:
            raise ConfigError(
                f"objective.mask_tokens: corruption 'drop' of stream '{name}' shows the trunk no mask tokens; use "
                "corruption=replace, or leave mask_tokens out"
            )


def check_generated(pairs: Mapping[str, PairLoss], parts: nn.ModuleDict) -> None:
    """Words are filled in by the predictor of one of the two streams."""
    for name, pair in pairs.items():
        stream = pair.generated.stream if pair.generated is not None else None
        if stream is not None and not isinstance(cast("StreamObjective", parts[stream]).target, TokenIdsTarget):
            raise ConfigError(
                f"objective.pairs.{name}.generated.stream: '{stream}' predicts no words that could be filled in; give "
                "it target=token_ids, or leave `generated` out"
            )


def check_swap(swap: SwapSettings | None, parts: Mapping[str, "StreamObjective"], depth: int) -> None:
    """Two views exchange tokens, so both have to have all of them."""
    if swap is None:
        return
    for name, part in parts.items():
        if part.corruption.drops:
            raise ConfigError(
                f"objective.swap: a masked view and a complete one exchange tokens in their places, and corruption "
                f"'drop' of stream '{name}' leaves some out; use corruption=replace, or leave swap out"
            )
    wrong = [layer for layer in swap.layers if not 0 <= layer < depth]
    if wrong:
        raise ConfigError(f"objective.swap.layers: expected 0 to {depth - 1}, below the last block, got {wrong[0]}")


def check_streams(streams: Mapping[str, StreamSettings], there: Collection[str]) -> None:
    """Raises ConfigError unless the entries are of the recipe's streams, and a budget that all share is one."""
    for name in there:
        if name not in streams:
            raise ConfigError(f"objective.streams: stream '{name}' of the recipe has no entry; add one")
    for name in streams:
        if name not in there:
            raise ConfigError(f"objective.streams.{name}: no such stream; the recipe has {', '.join(there)}")
    ratios = {name: settings.masking.ratio for name, settings in streams.items()}
    for name, ratio in ratios.items():
        if isinstance(ratio, Component) and ratio.target.shared:
            other = next((other for other, theirs in ratios.items() if theirs != ratio), None)
            if other is not None:
                raise ConfigError(
                    f"objective.streams.{other}.masking.ratio: '{ratio.name}' of stream '{name}' shares one budget "
                    f"over all streams; give '{other}' the same ratio with the same settings"
                )


def check_pairs(pairs: int, masks_per_sample: int, swap: SwapSettings | None) -> None:
    """Raises ConfigError where a row stands in a batch more than once: it would be its own negative."""
    if pairs and (masks_per_sample > 1 or swap is not None):
        other = "masks_per_sample" if masks_per_sample > 1 else "swap"
        raise ConfigError(
            f"objective.pairs: they compare rows, and '{other}' has each of them more than once; leave one out"
        )
