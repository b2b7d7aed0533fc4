"""Full fine-tuning with the masked loss beside the task's, fading (SiATL, Chronopoulou et al. 2019)."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmpt.build import load_weights
from mmpt.downstream.encoder import Encoder, find_checkpoint
from mmpt.errors import ConfigError, MmptError
from mmpt.finetune.objective import Supervised
from mmpt.finetune.strategies import Strategy
from mmpt.finetune.strategies.full import FullStrategy
from mmpt.model import Backbone, MaskedModel
from mmpt.objectives import Hidden, Objective, Prediction, Step
from mmpt.tokens import Batch
from mmpt.training import checkpoint
from mmpt.training.frozen_runs import fingerprints, load_frozen
from mmpt.training.run import same_frozen


class TwoLosses(Objective):
    """The task's loss on complete samples, and the masked one on hidden copies of the same samples.

    Args:
        task: the supervised objective. masked: the run's. start, end: weight of the masked one at progress 0 and 1.
    """

    def __init__(self, task: Supervised, masked: Objective, start: float, end: float) -> None:
        super().__init__()
        self.task, self.masked, self.start, self.end = task, masked, start, end

    def weights(self) -> dict[str, float]:
        """As both have them; what fades is part of the loss."""
        return {**self.masked.weights(), **self.task.weights()}

    def hide(self, batch: Batch, progress: float) -> dict[str, Hidden]:
        """Of both."""
        return {**self.task.hide(batch, progress), **self.masked.hide(batch, progress)}

    def forward(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden], progress: float) -> Step:
        """Two passes: complete samples must not be masked, nor masked ones be complete."""
        step = self.task(backbone, batch, hidden, progress)
        own = {name: part for name, part in hidden.items() if name in batch.streams}
        more, weight = self.masked(backbone, batch, own, progress), self.weight(progress)
        faded = {name: loss._replace(total=weight * loss.total) for name, loss in more.losses.items()}
        return step._replace(losses={**faded, **step.losses}, metrics={**more.metrics, **step.metrics})

    def weight(self, progress: float) -> float:
        """It fades exponentially, from the first number to the last; 0 stays 0."""
        done = min(max(progress, 0.0), 1.0)
        return self.start ** (1 - done) * self.end**done

    def outputs(self, backbone: Backbone, batch: Batch) -> Float[Tensor, "B ..."]:
        """What the head says of every row."""
        return self.task.outputs(backbone, batch)

    def touch(self, backbone: Backbone, batch: Batch) -> Float[Tensor, ""]:
        """Encoders and predictors of other streams are frozen."""
        return self.task.touch(backbone, batch)

    def after_update(self, backbone: Backbone, progress: float) -> None:
        """The masked objective's teachers follow, and what the head trains by itself."""
        self.task.after_update(backbone, progress)
        self.masked.after_update(backbone, progress)

    def predict(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden]) -> dict[str, Prediction]:
        """Of the masked objective."""
        own = {name: part for name, part in hidden.items() if name in batch.streams}
        return self.masked.predict(backbone, batch, own)


class Auxiliary(Strategy):
    """As `full`, with the run's own masked loss on the task's samples: the encoder forgets less.

    Args:
        learning_rate, layer_decay: as in `full`.
        start, end: weight of the masked loss, at the beginning and at the end.
    """

    def __init__(
        self, *, learning_rate: float = 1e-3, layer_decay: float = 0.75, start: float = 0.2, end: float = 0.1
    ) -> None:
        if not (math.isfinite(start) and start >= end >= 0 and (end > 0 or start == 0)):
            raise ConfigError(
                f"start, end: expected weights that fall and stay above 0, or 0 and 0; got {start}, {end}"
            )
        self.learning_rate, self.start, self.end = learning_rate, start, end
        self.full = FullStrategy(learning_rate=learning_rate, layer_decay=layer_decay)

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """The run's objective joins the task's, as it was trained; raises ConfigError where it can't be had again."""
        if encoder.run is None:
            raise ConfigError("strategy 'auxiliary' needs the run's objective, and this encoder has other columns")
        with torch.random.fork_rng(devices=[]):
            masked = encoder.recipe.objective.build(model.backbone, encoder.modalities)
        whole = MaskedModel(model.backbone, masked)
        try:
            if encoder.step is not None:
                saved = checkpoint.load(find_checkpoint(encoder.run, encoder.step), moments=False)
                load_weights(whole, saved.weights)
            load_frozen(whole)  # what its soft labels are of
            same_frozen(encoder.run, fingerprints(whole), "use strategy 'full'")
        except MmptError as error:
            raise ConfigError(
                f"strategy 'auxiliary' trains by the objective of {encoder.run} as well: {error}"
            ) from error
        frozen = [name for name, part in model.backbone.encoders.items() if not _trains(part)]
        for name, part in masked.named_modules():
            if name.split(".")[-1] in frozen:
                part.requires_grad_(False)
        device = next(model.parameters()).device
        model.objective = TwoLosses(cast("Supervised", model.objective), masked, self.start, self.end).to(device)

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """As in full fine-tuning."""
        return self.full.scales(model)

    def finish(self, model: MaskedModel) -> None:
        """The task alone."""
        model.objective = cast("TwoLosses", model.objective).task


def _trains(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())
