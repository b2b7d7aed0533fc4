"""Depth surgery: a run's backbone with its first blocks alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mmpt.config import Component
from mmpt.errors import ConfigError
from mmpt.settings import Recipe

BLOCKS = "backbone.trunk.blocks."


def depth_of(recipe: Recipe) -> int:
    """Blocks; raises ConfigError for a trunk that has no such setting."""
    depth = recipe.trunk.settings.get("depth")
    if not isinstance(depth, int):
        raise ConfigError(f"trunk '{recipe.trunk.name}' has no setting `depth`, so its blocks can't be told apart")
    return depth


def with_trunk(recipe: Recipe, **settings: Any) -> Recipe:
    """The recipe with some of its trunk's settings changed, of a run that stands by itself."""
    trunk = Component(recipe.trunk.target, {**recipe.trunk.settings, **settings}, recipe.trunk.name)
    return replace(recipe, init_from=None, trunk=trunk, objective=_by_itself(recipe.objective))


def _by_itself(objective: Component[Any]) -> Component[Any]:
    """Without cuts at blocks that may no longer be there."""
    left_out = {name: None for name in ("matryoshka",) if name in objective.settings}
    return Component(objective.target, {**objective.settings, **left_out}, objective.name)


def first_blocks(recipe: Recipe, weights: Mapping[str, Tensor], count: int) -> tuple[Recipe, dict[str, Tensor]]:
    """Recipe and weights of the same model with its first `count` blocks; the final norm stays behind the last one."""
    depth = depth_of(recipe)
    if not 1 <= count <= depth:
        raise ConfigError(f"depth: expected 1 to {depth}, the blocks of the run, got {count}")
    changes: dict[str, Any] = {"depth": count}
    if top := recipe.trunk.settings.get("top_layers", 0):
        changes["top_layers"] = max(0, count - (depth - top))
        if not changes["top_layers"]:
            changes["top_feedforward"] = None
    kept = {
        name: value
        for name, value in weights.items()
        if not name.startswith(BLOCKS) or int(name.removeprefix(BLOCKS).split(".")[0]) < count
    }
    return with_trunk(recipe, **changes), kept
