"""What is learned from labels: how they are read, what the head says, how wrong it is, and by which scores."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor, nn

from mmpt.config import Component, chosen
from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError, DataError
from mmpt.finetune.examples import GROUP, Examples, examples_of
from mmpt.finetune.metrics import Metric
from mmpt.finetune.settings import FitSettings
from mmpt.model import MaskedModel
from mmpt.pools import Pool
from mmpt.tokens import Batch, Content, Labels

if TYPE_CHECKING:
    from rich.console import Console

    from mmpt.finetune.metrics import Score
    from mmpt.finetune.result import FitResult
    from mmpt.finetune.strategies import Strategy


Inputs = tuple[str, ...] | list[str] | str | None  # names of streams, or of one


class Sample(NamedTuple):
    """One sample as it goes into the model: what its label is held against."""

    raw: Mapping[str, Any]  # decoded fields of the inputs that it has
    read: Mapping[str, np.ndarray]  # what the modalities read of them
    draw: int | None  # key of the augmentation; None: there is none


class Task(ABC):
    """One kind of label, learned on top of a pretrained encoder.

    `pooled`: the head looks at one vector of a pool. `alone`: every stream goes through the trunk by itself.
    `augments`: training may see samples otherwise than they are. `checks`: a label may contradict its sample, so that
    all are held against one another before anything is trained. `leaves_out`: what is wrong is left out, not refused.

    Args:
        encoder: from `mmpt.load`; the task trains a copy.
        label: its key in the JSON member of a data set or in a sample's dict, or a field of the data set. None: the
            samples themselves say what is to be learned.
        inputs: the streams to look at; by default all that the encoder has. A sample may lack some of them.
    """

    metrics: Mapping[str, Metric]  # the first is the one that epochs are compared by
    pooled: ClassVar[bool] = False
    alone: ClassVar[bool] = False
    augments: ClassVar[bool] = True
    checks: ClassVar[bool] = False
    leaves_out: bool = False
    pool: Component[Pool]

    def __init__(self, encoder: Encoder, *, label: str | None, inputs: Inputs) -> None:
        self.encoder, self.label = encoder, label
        named = (inputs,) if isinstance(inputs, str) else inputs
        self.inputs = tuple(named) if named else tuple(encoder.modalities)
        for name in self.inputs:
            if name not in encoder.modalities:
                there = ", ".join(encoder.modalities)
                near = difflib.get_close_matches(name, encoder.modalities, n=1)
                advice = f"; did you mean '{near[0]}'?" if near else ""
                raise ConfigError(f"inputs: the encoder has no stream '{name}'; it has {there}{advice}")
        self.facts: dict[str, Any] = {}  # what was learned of the labels
        self.model: MaskedModel | None = None  # once fitted

    # ---- what a kind of task says

    @abstractmethod
    def given(self, examples: Examples) -> Sequence[Any]:
        """The label of each sample as it came, None where there is none; raises ConfigError for another kind."""

    def parse(self, label: Any) -> Any:
        """One label as people mean it: a name, a number, a set of names; raises DataError saying what was expected."""
        return label

    @abstractmethod
    def learn(self, labels: Sequence[Any]) -> dict[str, Any]:
        """What must be known of the training labels, as JSON can hold it; raises DataError for labels of no use."""

    @abstractmethod
    def read(self, label: Any) -> np.ndarray:
        """One label as numbers; raises DataError saying what was expected."""

    @abstractmethod
    def align(self, label: np.ndarray | None, sample: Sample) -> np.ndarray | None:
        """The label as it stands for what was read of its sample; raises DataError where they contradict each other.

        Without a label: what is asked for when a sample is predicted, in the same form.
        """

    @abstractmethod
    def collate(self, labels: Sequence[np.ndarray | None], streams: Mapping[str, Content]) -> Labels:
        """Of the rows of a batch; None is unknown."""

    @abstractmethod
    def head(self) -> nn.Module:
        """With fresh weights: latents by stream -> outputs (B ...)."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """One number for each of `batch.labels.known`."""

    @abstractmethod
    def scores(self, outputs: Tensor, batch: Batch) -> Sequence[np.ndarray]:
        """What was said of each row, as `decode` and the metrics take it; on the host."""

    @abstractmethod
    def truth(self, batch: Batch) -> Sequence[np.ndarray]:
        """What would have been right for each row, in the form of the scores."""

    @abstractmethod
    def evidence(self, true: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """What the metrics look at: arrays of one row a sample, so that samples can be drawn again for intervals."""

    @abstractmethod
    def decode(self, scores: Sequence[np.ndarray]) -> list[Any]:
        """For people: names of classes, numbers, texts."""

    @abstractmethod
    def trivial(self, true: Sequence[np.ndarray]) -> dict[str, float]:
        """Every metric of one who never looks at a sample and knows what was learned of the training labels alone."""

    @abstractmethod
    def confusion(self, evidence: tuple[np.ndarray, ...]) -> np.ndarray | None:
        """How often each class (row) was taken for each (column); None where there are no classes."""

    # ---- what is the same for all

    def fit(
        self,
        train: Any,
        validation: Any = None,
        *,
        test: Any = None,
        strategy: "str | Mapping[str, Any] | Component[Strategy]" = "full",
        out: str | Path | None = None,
        allow_shared_groups: bool = False,
        console: "Console | None" = None,
        **settings: Any,
    ) -> "FitResult":
        """Fine-tune; the task then predicts with the weights of its best epoch.

        A fit begins with the encoder's weights and a fresh head, whether or not the task was fitted before; that of a
        strategy that goes on with a fitted task (`mask_finetuning`) with the task's own weights, head and all.

        Args:
            train: a data set's folder (its split `train`), the folder and a split (`shards/labs/train`), a list of
                dicts, a dict of columns, or a pandas DataFrame; label and, where there is one, `group` are keys.
                Laboratory values may be columns by themselves, each named as the encoder's column.
            validation: likewise; by default the data set's split `validation`. Epochs are compared on it.
            test: likewise, looked at once at the end.
            strategy: what is trained: `full`, `linear_probe` ... or with settings, as in a recipe, `{"type": "full",
                "layer_decay": 0.5}`; see `mmpt/finetune/strategies`.
            out: a folder for checkpoints, figures and the result; with it the same call goes on where it was stopped.
            allow_shared_groups: train although samples of one group are in training and validation or test.
            console: shows progress; None is quiet.
            settings: see `FitSettings`.

        Raises:
            ConfigError: settings that make no sense. DataError: samples or labels that can't be read, named.
            Interrupted: after SIGTERM or SIGINT, with `out`: all is saved there.
        """
        from mmpt.finetune.fit import fit
        from mmpt.finetune.strategies import Strategy

        return fit(
            self,
            train,
            validation,
            test=test,
            strategy=chosen(Component[Strategy], strategy, "strategy"),
            out=Path(out) if out is not None else None,
            allow_shared_groups=allow_shared_groups,
            console=console,
            settings=chosen(FitSettings, {name: _plain(value) for name, value in settings.items()}, ""),
        )

    def predict(self, samples: Any, *, batch_size: int = 64) -> list[Any]:
        """The label of each sample: a list of dicts, a dict of columns, a DataFrame, or a data set's folder."""
        return self.decode(self._said(samples, batch_size))

    def predict_scores(self, samples: Any, *, batch_size: int = 64) -> Any:
        """Probabilities of the classes, or values: one row a sample; a list where rows differ in length."""
        scores = self._said(samples, batch_size)
        return np.stack(scores) if len({own.shape for own in scores}) == 1 else scores

    def _said(self, samples: Any, batch_size: int) -> list[np.ndarray]:
        from mmpt.finetune.evaluate import said_of

        return said_of(self, self.examples(samples, split="test", labelled=False), batch_size=batch_size)

    def examples(self, samples: Any, *, split: str, labelled: bool = True) -> Examples:
        """Samples of any of the kinds that `fit` takes; `split` is what a bare folder means."""
        names = {name: self.encoder.modalities[name].entries for name in self.inputs}
        entries = {name: [own for own in parts if own not in (self.label, GROUP)] for name, parts in names.items()}
        label = self.label if labelled else None
        return examples_of(samples, self.inputs, label=label, split=split, entries=entries)

    def evaluate(self, samples: Any, *, batch_size: int = 64, seed: int = 0) -> "dict[str, Score]":
        """Every metric of labelled samples: its 95 % interval over resampled groups, and the trivial guess's."""
        from mmpt.finetune.evaluate import evaluated

        examples = self.examples(samples, split="test")
        return evaluated(self, self.fitted_model(), examples, batch_size=batch_size, seed=seed)

    def fitted_model(self) -> MaskedModel:
        """With the weights of the best epoch; raises DataError where there are none yet."""
        if self.model is None:
            raise DataError("the task has not been fitted yet; call fit, or load a saved one")
        return self.model

    @property
    def title(self) -> str:
        """What is learned from what, for people."""
        return f"{self.label} from {' + '.join(self.inputs)}"

    @property
    def wanted(self) -> str:
        """What a sample has to have, for messages."""
        return f"a label '{self.label}'"

    @property
    def lack(self) -> str:
        """What is missing from samples that are left out, for messages."""
        return "label"


def _plain(value: Any) -> Any:
    """Python's own number for NumPy's."""
    return value.item() if isinstance(value, np.generic) else value
