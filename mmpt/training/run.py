"""The run folder: what one recipe produced, and the refusal to mix two recipes in one.

`recipe.yaml` (complete), `facts.json` and `tokenizer/` (what the encoders know of the data), `data.json`
(fingerprints), `init_from.json` (which weights it began with, where they were not all fresh), `frozen.json`
(fingerprints of other runs that this one looks at), `environment.json`, `metrics.jsonl`, `ledger.jsonl` (and one more
for every other rank), `events.*` for TensorBoard, `checkpoints/`, `log.txt`, and `report.html` at the end.
"""

import difflib
import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from mmpt.build import save_facts
from mmpt.config import dump_yaml, load_settings
from mmpt.data.source import Source
from mmpt.encoders import Facts
from mmpt.errors import CheckpointError, ConfigError
from mmpt.foreign.origin import Origin
from mmpt.settings import Recipe
from mmpt.training import checkpoint

PACKAGES = ("mmpt", "torch", "deepspeed", "transformers", "timm", "webdataset", "tokenizers", "numpy", "safetensors")
ORIGIN = "init_from.json"
FROZEN = "frozen.json"
EP_SIZE = re.compile(r"^  ep_size: \d+\n", re.MULTILINE)  # the line in a recipe's `training`


def prepare(
    run: Path,
    recipe: Recipe,
    facts: dict[str, Facts],
    sources: Sequence[Source],
    frozen: Mapping[str, str] = MappingProxyType({}),
    origin: Origin | None = None,
) -> None:
    """Make the folder, or check that it is of this very recipe and data; raises ConfigError with the difference.

    `frozen` has the fingerprints of other runs whose models this one looks at, by folder. A folder whose run saved no
    checkpoint yet has nothing to lose, and is made anew.
    """
    text = dump_yaml(recipe)
    file = run / "recipe.yaml"
    fingerprints = {source.name: source.fingerprint for source in sources}
    if file.exists() and checkpoint.steps_in(run / "checkpoints"):
        _same_recipe(run, dump_yaml(load_recipe(run)), text)  # read anew: a setting that is new since is its default
        _same_data(run, json.loads((run / "data.json").read_text(encoding="utf-8")), fingerprints)
        same_frozen(run, frozen, "use another --out")
        return
    if not file.exists() and run.exists() and any(not path.name.startswith("log") for path in run.iterdir()):
        raise ConfigError(f"{run}: is not empty and not a run of mmpt; choose another --out")
    run.mkdir(parents=True, exist_ok=True)
    save_facts(run, facts)
    (run / "data.json").write_text(json.dumps(fingerprints, indent=1) + "\n", encoding="utf-8")
    if origin is not None:
        (run / ORIGIN).write_text(json.dumps(origin.to_plain(), indent=1) + "\n", encoding="utf-8")
    if frozen:
        (run / FROZEN).write_text(json.dumps(dict(frozen), indent=1) + "\n", encoding="utf-8")
    staged = run / ".recipe.yaml.staged"
    staged.write_text(text, encoding="utf-8")
    staged.replace(file)  # last: a folder with a recipe has everything else too


def _same_recipe(run: Path, before: str, now: str) -> None:
    """Over how many ranks experts are divided may change, as the number of ranks may: no weight depends on it."""
    before, now = (EP_SIZE.sub("", text) for text in (before, now))
    if before == now:
        return
    names = ("this run's recipe", "the recipe given")
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), *names, lineterm="", n=0)
    changes = "\n".join(line for line in lines if not line.startswith("@@"))
    raise ConfigError(
        f"{run}: holds a run of another recipe; use the same one to go on with it, or another --out:\n{changes}"
    )


def _same_data(run: Path, before: dict[str, str], now: dict[str, str]) -> None:
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"{run}: the shards of source '{changed[0]}' are not the ones this run began with; put those back, "
            "or use another --out"
        )


def same_frozen(run: Path, now: Mapping[str, str], otherwise: str) -> None:
    """Other runs, by folder, have the weights that this one looked at; ConfigError says what to do `otherwise`."""
    before = json.loads((run / FROZEN).read_text(encoding="utf-8")) if now else {}
    changed = [other for other in now if before.get(other) != now[other]]
    if changed:
        raise ConfigError(
            f"{run}: the weights of {changed[0]} are not the ones this run began with; put those back, or {otherwise}"
        )


def load_recipe(run: Path) -> Recipe:
    """The recipe that a run folder holds."""
    file = run / "recipe.yaml"
    if not file.exists():
        nowhere = "" if run.exists() else "; there is no such folder, and nothing is downloaded"
        raise CheckpointError(
            f"{run}: there is no recipe.yaml, so this is not a run folder, and no config.json, so it is no model of "
            f"transformers or timm either{nowhere}"
        )
    return load_settings(file, [], Recipe)


def run_and_step(path: Path, step: int | None = None) -> tuple[Path, int | None]:
    """Of a run folder itself, or of one of its checkpoints, which says the step."""
    if not (path / checkpoint.COMMIT).exists():
        return path, step
    own = int(path.name.removeprefix("step-"))
    if step not in (None, own):
        raise CheckpointError(f"{path}: is the checkpoint of step {own}, and step {step} was asked for; leave one out")
    return path.parents[1], own


def is_complete(run: Path, recipe: Recipe) -> bool:
    """Whether the last step's checkpoint is there and whole."""
    last = run / "checkpoints" / f"step-{recipe.training.steps:09d}"
    return last.exists() and not checkpoint.problems(last)


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "devices": devices or ["cpu"],
        "threads": torch.get_num_threads(),
        "packages": versions,
        "command": sys.argv,
    }
