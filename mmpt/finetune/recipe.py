"""`mmpt finetune RECIPE`: a fit as a file."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from mmpt.config import Component, component, load_settings
from mmpt.downstream.encoder import load
from mmpt.finetune.fit import fit
from mmpt.finetune.result import FitResult
from mmpt.finetune.settings import FitSettings
from mmpt.finetune.strategies import Strategy
from mmpt.finetune.tasks import Task
from mmpt.recipes import find_recipe


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """A fit, whole.

    Args:
        encoder: the pretrained run, or a model of transformers or timm, as `mmpt.load` takes it. step: of a run's
            checkpoint; the newest by default. untrained: fresh weights instead, for comparison. weights: a
            .safetensors file of timm's architecture `encoder`.
        task: what is learned.
        train: a data set, or a data set and a split (`shards/labs/train`). validation, test: likewise.
        strategy: what is trained.
        fit: how long and how.
        allow_shared_groups: although samples of one group are in training and validation or test.
    """

    encoder: Path
    task: Component[Task]
    train: Path
    validation: Path | None = None
    test: Path | None = None
    step: int | None = None
    untrained: bool = False
    weights: Path | None = None
    strategy: Component[Strategy] = component(Strategy, "full")
    fit: FitSettings = field(default_factory=FitSettings)
    allow_shared_groups: bool = False


def finetune(recipe: str | Path, *overrides: str, out: str | Path, console: Console | None = None) -> FitResult:
    """Fine-tune as the recipe says, or go on with what the folder holds; see `Task.fit` for what is raised."""
    settings = load_settings(find_recipe(recipe, "finetune"), list(overrides), FinetuneRecipe)
    encoder = load(settings.encoder, step=settings.step, untrained=settings.untrained, weights=settings.weights)
    return fit(
        settings.task.build(encoder),
        settings.train,
        settings.validation,
        test=settings.test,
        strategy=settings.strategy,
        out=Path(out),
        allow_shared_groups=settings.allow_shared_groups,
        console=console,
        settings=settings.fit,
    )
