"""Other runs' models that a method looks at and never trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mmpt.encoders import Modality
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.tokens import Batch


class Measures(ABC):
    """A part that has to know something of the data before the first step."""

    @abstractmethod
    def measure(self, batch: Batch) -> None:
        """Once in a run, on the host; `batch` is the same on all ranks. What comes of it is a buffer, to be saved."""


class FrozenRun(nn.Module, ABC):
    """The model of a finished run, beside this one and no part of its weights.

    No optimiser, ZeRO stage or checkpoint knows of it: every rank holds it whole, and a run that goes on reads it from
    its folder again. The program does both before training begins (`mmpt.training.frozen_runs`); what only inspects a
    run does without it.

    Args:
        run: its folder.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run
        self.fingerprint = ""  # of its weights, once it is held
        self._held: list[MaskedModel] = []  # in a list, where nn.Module does not look for parameters

    @abstractmethod
    def accept(self, modalities: Mapping[str, Modality], model: MaskedModel) -> None:
        """Take from it what is needed; raises ConfigError where it is of no use here."""

    def hold(self, modalities: Mapping[str, Modality], model: MaskedModel, fingerprint: str) -> None:
        """From now on."""
        self.accept(modalities, model)
        self._held, self.fingerprint = [model.requires_grad_(False).eval()], fingerprint

    @property
    def size(self) -> int:
        """Parameters; 0 where nothing is held."""
        return sum(parameter.numel() for model in self._held for parameter in model.parameters())

    @property
    def model(self) -> MaskedModel:
        """In eval mode, without gradients."""
        if not self._held:
            raise ConfigError(f"{self.run}: this run's model was not loaded; it is only for training, not to inspect")
        return self._held[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "FrozenRun":
        """Goes along to another device."""
        for model in self._held:
            model._apply(fn)
        return super()._apply(fn, recurse)
