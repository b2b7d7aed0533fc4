"""Tasks with one label a sample."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from mmpt.config import Component, chosen
from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError
from mmpt.finetune.examples import Examples
from mmpt.finetune.heads import PooledHead
from mmpt.finetune.metrics import values
from mmpt.finetune.objective import labels_of
from mmpt.finetune.tasks import Inputs, Sample, Task
from mmpt.pools import Pool
from mmpt.tokens import Batch, Content, Labels

PoolChoice = Component[Pool] | str | Mapping[str, Any] | None  # by itself, by name, or as in a recipe


class RowTask(Task):
    """One label a sample, from one vector of all its streams.

    Args:
        encoder, label, inputs: see `Task`.
        pool: from latents to one vector, by name or as in a recipe; `mean` by default.
    """

    pooled = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        inputs: Inputs = None,
        pool: PoolChoice = None,
    ) -> None:
        super().__init__(encoder, label=label, inputs=inputs)
        self.pool = chosen(Component[Pool], pool or "mean", "pool")
        joined = cast("type[Pool]", self.pool.target).streams
        if joined and len(self.inputs) != joined:
            raise ConfigError(
                f"inputs: pool '{self.pool.name}' joins {joined} streams, got {', '.join(self.inputs)}; name {joined} "
                f"of {', '.join(encoder.modalities)}"
            )

    @property
    @abstractmethod
    def size(self) -> int:
        """Outputs of the head."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one label as numbers."""
        return ()

    @abstractmethod
    def guess(self) -> np.ndarray:
        """The scores of one who never looks at a sample and knows the training labels' facts alone."""

    def given(self, examples: Examples) -> Sequence[Any]:
        """As they are."""
        return examples.labels

    def align(self, label: np.ndarray | None, sample: Sample) -> np.ndarray | None:
        """A sample's label is the same however it is looked at."""
        return label

    def collate(self, labels: Sequence[np.ndarray | None], streams: Mapping[str, Content]) -> Labels:
        """What is unknown stands as zeros."""
        values = np.stack([np.zeros(self.shape) if label is None else label for label in labels])
        return Labels(torch.from_numpy(values), torch.tensor([label is not None for label in labels]))

    def head(self) -> nn.Module:
        """A linear map of the pooled vector."""
        return PooledHead(self.pool.build(self.encoder.width), self.encoder.width, self.size)

    def truth(self, batch: Batch) -> Sequence[np.ndarray]:
        """The labels."""
        return [np.asarray(own) for own in labels_of(batch).values.numpy()]

    def evidence(self, true: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Labels and scores."""
        return np.stack(true), np.stack(scores)

    def trivial(self, true: Sequence[np.ndarray]) -> dict[str, float]:
        """Of the same guess for every sample."""
        return values(self.metrics, self.evidence(true, [self.guess()] * len(true)))
