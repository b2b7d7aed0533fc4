"""A small student of a fitted task, which learns what its teacher says of unlabelled samples (Izsak et al. 2019)."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from mmpt.build import build_backbone, load_weights
from mmpt.compress.blocks import first_blocks, with_trunk
from mmpt.compress.methods import Method, Row, Smaller, Work
from mmpt.compress.taught import Distance, Joined, Taught, said_by
from mmpt.config import component
from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError, DataError
from mmpt.finetune.evaluate import evaluated
from mmpt.finetune.examples import ShardExamples
from mmpt.finetune.loop import Loop
from mmpt.finetune.objective import Supervised
from mmpt.finetune.parts import Part
from mmpt.finetune.result import FitResult
from mmpt.finetune.row_task import RowTask
from mmpt.finetune.rows import known_labels
from mmpt.finetune.saved import TASK, clear, plain_of, save, task_of
from mmpt.finetune.saved import load as load_task
from mmpt.finetune.settings import FitSettings
from mmpt.finetune.strategies import Strategy
from mmpt.finetune.tasks import Task
from mmpt.finetune.tasks.classifier import Classifier
from mmpt.model import MaskedModel
from mmpt.parts import unknown
from mmpt.training import engine
from mmpt.training.progress import quiet
from mmpt.training.section import check_settings
from mmpt.trunk.attention import check_heads


class StudentMethod(Method):
    """The run is a fitted task, and so is what comes out. Samples of the data are taken without their labels.

    A sample without label gets the teacher's decision as one; every sample has the teacher's outputs besides. The
    teacher looks at each sample once, in eval mode.

    Args:
        width, depth, heads: of the student's trunk; None: the teacher's.
        start: with fresh weights, or the teacher's first blocks, which asks for its width and heads.
        labelled: a data set, or a data set and a split, whose labels are used as well.
        validation: likewise, to choose the best epoch by; None: the data's split `validation`. test: likewise, to judge
            teacher and student by; None: its split `test`.
        label_weight, teacher_weight: of the losses; the source has 1 and 0.1.
        distance: `kl` or `mse` of outputs; None takes `kl` for classes and `mse` for all else.
        temperature: of the divergence.
        fit: how long and how.
    """

    of_task = True

    def __init__(
        self,
        *,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        start: Literal["fresh", "first_blocks"] = "fresh",
        labelled: Path | None = None,
        validation: Path | None = None,
        test: Path | None = None,
        label_weight: float = 1.0,
        teacher_weight: float = 1.0,
        distance: Distance | None = None,
        temperature: float = 1.0,
        fit: FitSettings = FitSettings(),  # noqa: B008  frozen
    ) -> None:
        if min(label_weight, teacher_weight) < 0 or not label_weight + teacher_weight or temperature <= 0:
            raise ConfigError(
                "label_weight, teacher_weight, temperature: expected 0 or more, not both 0, and a positive number, got "
                f"{label_weight}, {teacher_weight} and {temperature}"
            )
        sizes = {"width": width, "depth": depth, "heads": heads}
        self.sizes = {name: value for name, value in sizes.items() if value is not None}
        for name, value in self.sizes.items():
            if value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if start == "first_blocks" and set(self.sizes) - {"depth"}:
            raise ConfigError(
                "start: the teacher's first blocks have its width and heads; leave those out, or use fresh"
            )
        self.start, self.labelled, self.validation, self.test = start, labelled, validation, test
        self.label_weight, self.teacher_weight = label_weight, teacher_weight
        self.distance: Distance | None = distance
        self.temperature, self.fit = temperature, fit

    def smaller(self, work: Work) -> Smaller:
        """The student of the best epoch."""
        teacher = load_task(work.run)
        encoder = self._encoder(teacher)
        plain = plain_of(teacher)
        inner = task_of(plain["type"], plain["settings"], plain["facts"], encoder)
        if not isinstance(inner, RowTask):
            kind = type(teacher).__name__
            raise ConfigError(f"run: {kind} says something of every token, and students learn of samples")
        taught, parts = self._parts(work, teacher, inner)
        result = self._fit(work, taught, parts)
        inner.model = _with_head_of(cast("MaskedModel", taught.model), inner)
        before = evaluated(
            teacher, cast("MaskedModel", teacher.model), parts["test"].examples, batch_size=64, seed=self.fit.seed
        )
        rows = tuple(
            Row(f"{name}, test", str(before[name]), str(value), f"{result.trivial_test[name]:.3f}")
            for name, value in result.test.items()
        )
        told = {
            "before": {name: asdict(value) for name, value in before.items()},
            "after": {name: asdict(value) for name, value in result.test.items()},
        }
        counts = ", ".join(f"{count} {purpose}" for purpose, count in result.samples.items())
        lines = (f"samples: {counts}; epoch {result.best_epoch} of {len(result.history)}", *result.notes)
        final = replace(result, task=inner)

        def write(out: Path) -> None:
            if not (out / TASK).exists():  # else of a call that was stopped while it measured
                save(inner, out, result=final)
            clear(out / "progress", out / "best")

        return Smaller(encoder.recipe, {}, told, lines, rows, write)

    def _encoder(self, teacher: Task) -> Encoder:
        own = teacher.encoder
        if self.start == "first_blocks":
            weights = {f"backbone.{n}": v for n, v in cast("MaskedModel", teacher.model).backbone.state_dict().items()}
            recipe, kept = first_blocks(own.recipe, weights, self.sizes.get("depth", own.backbone.trunk.depth))
        else:
            recipe, kept = with_trunk(own.recipe, **self.sizes), {}
            settings = recipe.trunk.settings
            check_heads(settings["width"], settings["heads"])
        recipe = replace(recipe, training=replace(recipe.training, seed=self.fit.seed))
        backbone = build_backbone(recipe, own.modalities)
        if kept:
            load_weights(backbone, kept, prefix="backbone.")
        backbone.requires_grad_(False).eval().to(own.device)
        return Encoder(backbone, own.modalities, recipe, None, own.device, None)

    def _parts(self, work: Work, teacher: Task, inner: RowTask) -> tuple[Taught, dict[str, Part]]:
        """Samples of each purpose; training ones with what the teacher says of them."""
        shards = work.manifest.folder
        label, inputs = teacher.label, inner.inputs
        unlabelled = ShardExamples(work.manifest, inputs, None, work.split)
        examples = [unlabelled]
        if self.labelled is not None:
            examples.append(cast("ShardExamples", inner.examples(self.labelled, split="train")))
        joined = Joined(examples)
        said, guesses = said_by(teacher, joined)
        own, _ = known_labels(inner, joined)
        labels = [inner.read(guess) if known is None else known for guess, known in zip(guesses, own, strict=True)]
        taught = Taught(
            inner,
            distance=self.distance or ("kl" if isinstance(inner, Classifier) else "mse"),
            label_weight=self.label_weight,
            teacher_weight=self.teacher_weight,
            temperature=self.temperature,
        )
        known: list[np.ndarray | None] = [taught.with_teacher(*both) for both in zip(said, labels, strict=True)]
        parts = {"train": Part(joined, known)}
        for purpose, place in (("validation", self.validation), ("test", self.test)):
            other = inner.examples(place or shards, split=purpose)
            parts[purpose] = Part(other, known_labels(inner, other)[0])
            if not len(parts[purpose].usable):
                raise DataError(f"{other.where}: no sample has a label '{label}'")
        return taught, parts

    def _fit(self, work: Work, taught: Taught, parts: dict[str, Part]) -> FitResult:
        metric = self.fit.metric or next(iter(taught.metrics))
        if metric not in taught.metrics:
            raise ConfigError(f"fit.metric: {unknown('a metric', list(taught.metrics), metric)}")
        decay = 1.0 if self.start == "fresh" else 0.75
        how = component(Strategy, "full", layer_decay=decay).build()
        check_settings(self.fit.deepspeed)
        work.begin()
        with quiet(work.out / "log.txt", speaks=work.console is not None) as console:
            loop = Loop(taught, how, parts, self.fit, metric, engine.start(0), work.out, console)
            loop.go()
            return loop.result("student", ())


def _with_head_of(model: MaskedModel, task: Task) -> MaskedModel:
    """The fitted model as the task itself has it."""
    plain = MaskedModel(model.backbone, Supervised(cast("Supervised", model.objective).head, task.loss))
    return plain.requires_grad_(True).eval().to(next(model.parameters()).device)
