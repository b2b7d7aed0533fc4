"""What stands in a recipe for one stream of masked prediction."""

from dataclasses import dataclass
from typing import Literal

from mmpt.config import Component
from mmpt.objectives.contrast import ContrastSettings
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.loss_prediction import LossPredictionSettings
from mmpt.objectives.masking.algebra import MaskingSettings
from mmpt.objectives.predictors import Predictor
from mmpt.objectives.soft_labels import SoftLabels
from mmpt.objectives.targets import Target


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
        row_weight: `scores` weighs the losses of a row by the mean confidence of a scorer in its observed tokens, and
            its part of the divisor likewise, so that weights average 1 (Ask2Mask, Baskar et al. 2022).
        loss_predictor: learns which hidden tokens are hard; importance `predicted_loss` asks its averaged copy.
        contrast: trains the quantiser of target `online_codes`.
        soft_labels: what hidden tokens might be, mixed with what they are; for targets of classes.
    """

    masking: MaskingSettings
    corruption: Component[Corruption]
    predictor: Component[Predictor]
    target: Component[Target]
    weight: float = 1.0
    shown_weight: float = 0.0
    feature_penalty: float = 0.0
    average: Literal["scored", "valid", "sample"] = "scored"
    row_weight: Literal["none", "scores"] = "none"
    loss_predictor: LossPredictionSettings | None = None
    contrast: ContrastSettings | None = None
    soft_labels: Component[SoftLabels] | None = None
