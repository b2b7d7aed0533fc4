"""What is learned from labels: how they are read, what the head says, how wrong it is, and by which scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from mmpt.config import Component, component
from mmpt.downstream.encoder import Encoder
from mmpt.downstream.pooling import TokenLatents
from mmpt.errors import ConfigError, DataError
from mmpt.finetune.pools import Pool
from mmpt.finetune.settings import FitSettings
from mmpt.model import MaskedModel
from mmpt.tokens import Labels

if TYPE_CHECKING:
    from rich.console import Console

    from mmpt.finetune.result import FitResult
    from mmpt.finetune.strategies import Strategy


class Metric(NamedTuple):
    """A score of predictions."""

    score: Callable[[np.ndarray, np.ndarray], float]  # of true labels and outputs, one row a sample
    higher_is_better: bool = True


class PooledHead(nn.Module):
    """All streams -> one vector -> numbers.

    Args:
        pool, width, size: the vector is of D numbers, the outputs are `size`.
    """

    def __init__(self, pool: Pool, width: int, size: int) -> None:
        super().__init__()
        self.pool, self.linear = pool, nn.Linear(width, size)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, streams: Mapping[str, TokenLatents]) -> Tensor:
        """(B, size)."""
        return self.linear(self.pool(streams))


class Task(ABC):
    """One kind of label, learned on top of a pretrained encoder.

    Args:
        encoder: from `mmpt.load`; the task trains a copy.
        label: the key of the label: in the JSON member of a data set, or in a sample's dict.
        inputs: the streams to look at; by default all that the encoder has. A sample may lack some of them.
        pool: from latents to one vector; `mean` by default.
    """

    metrics: ClassVar[Mapping[str, Metric]]  # the first is the one that epochs are compared by

    def __init__(
        self,
        encoder: Encoder,
        *,
        label: str,
        inputs: tuple[str, ...] | list[str] | None = None,
        pool: Component[Pool] | None = None,
    ) -> None:
        self.encoder, self.label, self.pool = encoder, label, pool or component(Pool, "mean")
        self.inputs = tuple(inputs) if inputs else tuple(encoder.modalities)
        for name in self.inputs:
            if name not in encoder.modalities:
                there = ", ".join(encoder.modalities)
                raise ConfigError(f"inputs: the encoder has no stream '{name}'; it has {there}")
        joined = cast("type[Pool]", self.pool.target).streams
        if joined and len(self.inputs) != joined:
            raise ConfigError(
                f"inputs: pool '{self.pool.name}' joins {joined} streams, got {', '.join(self.inputs)}; name {joined} "
                f"of {', '.join(encoder.modalities)}"
            )
        self.facts: dict[str, Any] = {}  # what was learned of the labels
        self.model: MaskedModel | None = None  # once fitted

    # ---- what a kind of task says

    @abstractmethod
    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """What must be known of the training labels, as JSON can hold it; raises DataError for labels of no use."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Outputs of the head."""

    @abstractmethod
    def read(self, label: Any) -> np.ndarray:
        """One label as numbers; raises DataError saying what was expected."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Labels) -> Tensor:
        """One number a row."""

    @abstractmethod
    def scores(self, outputs: Tensor) -> np.ndarray:
        """Outputs as metrics take them: probabilities, or values in the label's unit."""

    @abstractmethod
    def decode(self, scores: np.ndarray) -> list[Any]:
        """For people: names of classes, numbers."""

    @abstractmethod
    def trivial(self, labels: np.ndarray) -> np.ndarray:
        """The scores of one who never looks at a sample, from the training labels: one row."""

    # ---- what is the same for all

    def fit(
        self,
        train: Any,
        validation: Any = None,
        *,
        test: Any = None,
        strategy: "str | Component[Strategy]" = "full",
        out: str | Path | None = None,
        allow_shared_groups: bool = False,
        console: "Console | None" = None,
        **settings: Any,
    ) -> "FitResult":
        """Fine-tune; the task then predicts with the weights of its best epoch.

        Args:
            train: a data set's folder (its split `train`), the folder and a split (`shards/labs/train`), a list of
                dicts, a dict of columns, or a pandas DataFrame; label and, where there is one, `group` are keys.
            validation: likewise; by default the data set's split `validation`. Epochs are compared on it.
            test: likewise, looked at once at the end.
            strategy: what is trained: `full`, `linear_probe` ...; see `mmpt/finetune/strategies`.
            out: a folder for checkpoints, figures and the result; with it the same call goes on where it was stopped.
            allow_shared_groups: train although samples of one group are in training and validation or test.
            console: shows progress; None is quiet.
            settings: see `FitSettings`.

        Raises:
            ConfigError: settings that make no sense. DataError: samples or labels that can't be read, named.
        """
        from mmpt.config import component
        from mmpt.finetune.fit import fit
        from mmpt.finetune.strategies import Strategy

        return fit(
            self,
            train,
            validation,
            test=test,
            strategy=component(Strategy, strategy) if isinstance(strategy, str) else strategy,
            out=Path(out) if out is not None else None,
            allow_shared_groups=allow_shared_groups,
            console=console,
            settings=FitSettings(**settings),
        )

    def predict(self, samples: Any, *, batch_size: int = 64) -> list[Any]:
        """The label of each sample: a list of dicts, a dict of columns, a DataFrame, or a data set's folder."""
        return self.decode(self.predict_scores(samples, batch_size=batch_size))

    def predict_scores(self, samples: Any, *, batch_size: int = 64) -> np.ndarray:
        """Probabilities of the classes, or values: one row a sample."""
        from mmpt.finetune.evaluate import outputs_of
        from mmpt.finetune.examples import examples_of

        if self.model is None:
            raise DataError("the task has not been fitted yet; call fit, or load a saved one")
        examples = examples_of(samples, self.inputs, label=None, split="test")
        return self.scores(outputs_of(self, self.model, examples, batch_size=batch_size))

    def evaluate(self, samples: Any, *, batch_size: int = 64, seed: int = 0) -> "dict[str, Any]":
        """Every metric of labelled samples, with its 95 % interval over resampled groups."""
        from mmpt.finetune.evaluate import evaluated
        from mmpt.finetune.examples import examples_of

        if self.model is None:
            raise DataError("the task has not been fitted yet; call fit, or load a saved one")
        examples = examples_of(samples, self.inputs, label=self.label, split="test")
        return evaluated(self, self.model, examples, batch_size=batch_size, seed=seed)

    def head(self) -> nn.Module:
        """With fresh weights, on latents by stream."""
        return PooledHead(self.pool.build(self.encoder.width), self.encoder.width, self.size)

    def collate(self, labels: Sequence[np.ndarray | None], like: np.ndarray) -> Labels:
        """Of the rows of a batch; None is unknown, and stands as zeros of the shape of `like`."""
        values = np.stack([np.zeros_like(like) if label is None else label for label in labels])
        return Labels(torch.from_numpy(values), torch.tensor([label is not None for label in labels]))
