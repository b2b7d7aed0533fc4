"""Recipes by name: the ones that come with mmpt, and where they lie."""

import difflib
from pathlib import Path
from typing import NamedTuple

from mmpt.errors import ConfigError

POSTTRAIN = "posttrain"  # recipes of pretraining that go on from a finished run; named with their folder


class Listed(NamedTuple):
    """A recipe that comes with mmpt."""

    name: str
    path: Path
    line: str  # the first line of its comment


def recipe_folder() -> Path:
    """`mmpt/configs` of an installed package, `configs` of a checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def recipes(kind: str = "") -> list[Listed]:
    """Those of pretraining, or of a folder such as `finetune`, by name."""
    found = []
    for path in sorted((recipe_folder() / kind).glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found.append(Listed(path.stem, path, first.lstrip("# ").rstrip()))
    return found


def find_recipe(name: str | Path, kind: str = "") -> Path:
    """A file, or a recipe that comes with mmpt; raises ConfigError with the nearest name."""
    path = Path(name)
    if path.is_file():
        return path
    names = {recipe.name: recipe.path for recipe in recipes(kind)}
    if not kind:
        names |= {f"{POSTTRAIN}/{recipe.name}": recipe.path for recipe in recipes(POSTTRAIN)}
    if str(name) in names:
        return names[str(name)]
    near = difflib.get_close_matches(path.stem, names, n=1)
    advice = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(f"{name}: no such file and no recipe of that name; {advice}there are {', '.join(names)}")
