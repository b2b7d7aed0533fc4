"""A fitted task as a folder: what `mmpt.load` reads of a run, and the head."""

import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mmpt.build import load_weights, save_facts
from mmpt.config import component, dump_yaml, to_plain
from mmpt.downstream.encoder import Encoder, Pooling, find_checkpoint
from mmpt.downstream.encoder import load as load_encoder
from mmpt.downstream.result import RESULT, TASK
from mmpt.errors import CheckpointError, ConfigError
from mmpt.finetune.model import plain_model
from mmpt.finetune.objective import Supervised
from mmpt.finetune.result import FitResult
from mmpt.finetune.tasks import Task
from mmpt.training import checkpoint


def settings_of(part: Any) -> dict[str, Any]:
    """A part's own settings, as YAML and JSON hold them: it keeps each under the parameter's name."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = inspect.signature(type(part)).parameters.values()
    return {own.name: to_plain(getattr(part, own.name)) for own in parameters if own.kind is keyword}


def plain_of(task: Task) -> dict[str, Any]:
    """All but the weights, as JSON holds it."""
    kind = type(task)
    return {"type": f"{kind.__module__}.{kind.__name__}", "settings": settings_of(task), "facts": task.facts}


def task_of(kind: str, settings: Mapping[str, Any], facts: dict[str, Any], encoder: Encoder) -> Task:
    """The same back, on an encoder; it has no weights yet."""
    task = component(Task, kind, **settings).build(encoder)
    task.facts = facts
    return task


def save(task: Task, folder: Path, *, result: FitResult | None = None) -> Path:
    """Write a fitted task; raises ConfigError where it is not fitted, or a task is there already."""
    if task.model is None:
        raise ConfigError("the task has not been fitted yet; call fit first")
    if (folder / TASK).exists():
        raise ConfigError(f"{folder}: holds a task already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    save_facts(folder, {name: modality.facts for name, modality in task.encoder.modalities.items()})
    (folder / "recipe.yaml").write_text(dump_yaml(task.encoder.recipe), encoding="utf-8")
    weights = {name: value.cpu().contiguous() for name, value in task.model.state_dict().items()}
    step = result.best_epoch if result else 0
    checkpoint.commit(folder / "checkpoints", checkpoint.Saved(weights, {}, {"step": step}))
    if result:
        from mmpt.report.fit import write_fit_report  # matplotlib is slow to import

        (folder / RESULT).write_text(result.to_json(), encoding="utf-8")
        write_fit_report(result, folder)
    plain = plain_of(task)
    staged = folder / f".{TASK}.staged"
    staged.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    staged.replace(folder / TASK)  # last: a folder with a task has everything else
    return folder


def load(folder: str | Path, *, device: str | None = None) -> Task:
    """A task that `FitResult.save` or `fit(..., out=)` wrote, ready to predict; raises CheckpointError otherwise."""
    folder = Path(folder)
    if not (folder / TASK).exists():
        is_run = (folder / "recipe.yaml").exists()
        advice = "it is a pretrained run, for mmpt.load and mmpt finetune" if is_run else "is it a fine-tuned task?"
        raise CheckpointError(f"{folder}: there is no {TASK}; {advice}")
    try:
        plain = json.loads((folder / TASK).read_text(encoding="utf-8"))
        kind, settings, facts = plain["type"], plain["settings"], plain["facts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / TASK}: damaged ({error!r}); fine-tune again, into another folder") from error
    encoder = load_encoder(folder, device=device)
    task = task_of(kind, settings, facts, encoder)
    model = plain_model(task)
    load_weights(model, checkpoint.load(find_checkpoint(folder), moments=False).weights)
    task.model = model.to(encoder.device).eval()
    return task


def pooling_of(task: Task) -> Pooling:
    """From latents to the vector of a sample that the task's head looks at; raises ConfigError where there is none."""
    head = cast("Supervised", task.model.objective).head if task.model else None
    vector = getattr(head, "vector", None)
    if vector is None:
        raise ConfigError(f"a {type(task).__name__} has no vector of a whole sample; use pool mean, mean_std or class")
    return vector


def load_result(folder: Path) -> FitResult:
    """The task and what its fit came to."""
    from mmpt.downstream.result import Interval

    plain = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    for name in ("metrics", "test"):
        plain[name] = {metric: Interval(**value) for metric, value in plain[name].items()}
    plain["history"], plain["notes"] = tuple(plain["history"]), tuple(plain["notes"])
    return FitResult(task=load(folder), **plain)


def clear(*folders: Path) -> None:
    """Remove what a finished fit no longer needs."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
