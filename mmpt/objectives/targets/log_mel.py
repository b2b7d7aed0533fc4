"""The log-mel spectrum of hidden speech, by mean squared error (Liu et al. 2020; Gong et al. 2022)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmpt.encoders import Modality
from mmpt.encoders.speech import Speech
from mmpt.encoders.speech_mel import SMALLEST_DEVIATION, MelTables, SpeechMel, log_mel, mel_tables
from mmpt.errors import ConfigError
from mmpt.objectives.targets import Target
from mmpt.tokens import StreamContext


class LogMelTarget(Target):
    """P numbers a token: the patch of a spectrogram, or one spectrum of the window that a frame looks at.

    Args:
        normalize: standardise every token by its own mean and unbiased variance, as MAE's better half does.
        mels: bands of a frame's spectrum; patches have their own.
    """

    hann: Tensor
    filters: Tensor

    def __init__(self, modality: Modality, *, normalize: bool = False, mels: int = 40) -> None:
        super().__init__()
        if not isinstance(modality, Speech | SpeechMel):
            raise ConfigError(
                "target 'log_mel' has a meaning for speech only; use pixels for images, token_ids for text, "
                "signal for ECG and cells for tables"
            )
        self.frames = isinstance(modality, Speech)
        self.size = mels if self.frames else modality.numbers
        if self.frames:
            tables = mel_tables(int(modality.rate), modality.window, mels)
            self.register_buffer("hann", tables.hann, persistent=False)
            self.register_buffer("filters", tables.filters, persistent=False)
        self.normalize = normalize

    def forward(self, context: StreamContext) -> Float[Tensor, "B N P"]:
        """Of the frames of a waveform every band has mean 0 and variance 1 over its row; padding is zeros."""
        valid = context.content.valid.unsqueeze(2)
        values = torch.where(valid, context.content.values.float(), 0.0)
        if self.frames:
            values = _standardised(log_mel(values, MelTables(self.hann, self.filters)), valid)
        if not self.normalize:
            return values
        variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
        return (values - mean) / (variance + 1e-6).sqrt()

    def loss(self, prediction: Float[Tensor, "M P"], target: Float[Tensor, "M P"]) -> Float[Tensor, " M"]:
        """Mean over a token's numbers."""
        return (prediction.float() - target).square().mean(dim=1)


def _standardised(spectra: Float[Tensor, "B N P"], valid: Bool[Tensor, "B N 1"]) -> Float[Tensor, "B N P"]:
    count = valid.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(valid, spectra - (spectra * valid).sum(1, keepdim=True) / count, 0.0)
    std = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / std.clamp(min=SMALLEST_DEVIATION)
