"""The hidden stretches of an ECG, by mean squared error over what was measured (M3AE; C-MELT, Pham et al. 2024)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.ecg import Ecg
from mmpt.encoders.ecg_stem import STRIDE, EcgStem, leads_of
from mmpt.errors import ConfigError
from mmpt.objectives.targets import Target
from mmpt.tokens import StreamContext


class SignalTarget(Target):
    """The z-scored samples of a token: P of one lead's strip, or 16 of every lead, time first.

    What was not measured is NaN among the true values and doesn't count.

    Args:
        normalize: standardise every strip of a lead by its own mean and unbiased variance, as MAE's better half does.
        source: the `clean` recording, or what is `shown` of it, where leads that training left out are 0 (C-MELT's
            released way).
    """

    def __init__(
        self, modality: Modality, *, normalize: bool = False, source: Literal["clean", "shown"] = "clean"
    ) -> None:
        super().__init__()
        if not isinstance(modality, Ecg | EcgStem):
            raise ConfigError(
                "target 'signal' has a meaning for ECG only; use pixels for images, token_ids for text, "
                "log_mel for speech and cells for tables"
            )
        self.stem = isinstance(modality, EcgStem)
        self.size = STRIDE * len(modality.leads) if self.stem else modality.stride
        self.normalize, self.source = normalize, source

    def forward(self, context: StreamContext) -> Float[Tensor, "B N P"]:
        """Samples, NaN where a lead was not observed."""
        values = context.content.values.float()
        return self._of_all_leads(values) if self.stem else self._standardised(values, dim=-1)

    def _of_all_leads(self, values: Float[Tensor, "B N Y C"]) -> Float[Tensor, "B N P"]:
        leads = leads_of(values)
        # not measured: 0 first, for 0 times whatever stands there may not be a number
        signal = torch.where(leads.shown if self.source == "shown" else leads.observed, leads.signal, 0.0)
        signal = self._standardised(signal, dim=-2)
        return torch.where(leads.observed, signal, torch.nan).flatten(2)

    def _standardised(self, strips: Float[Tensor, "*strips"], dim: int) -> Float[Tensor, "*strips"]:
        if not self.normalize:
            return strips
        variance, mean = torch.var_mean(strips, dim=dim, keepdim=True)
        return (strips - mean) / (variance + 1e-6).sqrt()

    def loss(self, prediction: Float[Tensor, "M P"], target: Float[Tensor, "M P"]) -> Float[Tensor, " M"]:
        """Mean over the samples that were measured."""
        measured = ~target.isnan()
        error = torch.where(measured, prediction.float() - target, 0.0)
        return error.square().sum(dim=1) / measured.sum(dim=1).clamp(min=1)
