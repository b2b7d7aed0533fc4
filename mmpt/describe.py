"""What a recipe comes to, without training it: sizes, steps, memory and the learning-rate curve, in numbers."""

import re
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from mmpt.build import count_parameters, parameter_counts, source_weights
from mmpt.config import dump_yaml, load_settings
from mmpt.data.batches import source_shares
from mmpt.recipes import find_recipe
from mmpt.settings import Recipe
from mmpt.training.beginning import told
from mmpt.training.command import Built, build
from mmpt.training.held import Groups
from mmpt.training.optimizer import groups_of
from mmpt.training.schedules import learning_rate
from mmpt.trunk.feedforward.routed_experts import RoutedExperts

SAMPLED_STEPS = 2


def describe(recipe: str | Path, overrides: list[str], *, ranks: int, console: Console) -> None:
    """Print it; raises what pretraining it would raise before its first step."""
    settings = load_settings(find_recipe(recipe), overrides, Recipe)
    built = build(settings, 0, ranks)
    console.print(dump_yaml(settings), markup=False)
    console.print(_parameters(built))
    console.print(_sources(built))
    for line in (*told(built.origin), *_steps(built, ranks), _memory(built, ranks)):
        console.print(line, markup=False)
    console.print(_updates(built))
    console.print(_rates(settings))


def _parameters(built: Built) -> Table:
    table = Table("part", "parameters", title="parameters")
    for name, count in parameter_counts(built.model).items():
        table.add_row("objective (its own)" if name == "objective" else name, f"{count:,}")
    return table


def _sources(built: Built) -> Table:
    table = Table("source", "share of steps", "bins", "steps an epoch", "tokens an epoch", title="data")
    weights = source_weights(built.recipe, built.sources)
    for row in source_shares(built.sources, weights, built.recipe.data.batch_size):
        share, steps = f"{row['share']:.1%}", f"{row['steps_per_epoch']:.1f}"
        table.add_row(str(row["source"]), share, f"{row['bins']:,}", steps, f"{row['tokens_per_epoch']:,}")
    return table


def _steps(built: Built, ranks: int) -> list[str]:
    share = built.batches.share
    size = built.recipe.data.batch_size
    lines = [f"a step: {size} bins = {ranks} ranks x {share.accumulation} micro-batches x {share.bins} bins"]
    for number, source in enumerate(built.sources):
        own = (built.batches.chosen == number).nonzero()[0][:SAMPLED_STEPS].tolist()
        micro = [built.batches[step * share.accumulation] for step in own]
        if not micro:
            lines.append(f"tokens a step of '{source.name}': none, the run is too short for its weight")
            continue
        scale = ranks * share.accumulation / len(micro)
        tokens, places = (sum(getattr(m, name) for m in micro) * scale for name in ("tokens", "places"))
        padding = f"{1 - tokens / places:.1%} padding"
        lines.append(f"tokens a step of '{source.name}': {tokens:,.0f} useful of {places:,.0f} ({padding})")
    return lines


def _memory(built: Built, ranks: int) -> str:
    """Weights, gradients and moments exactly; activations by a rule of thumb."""
    stage = built.recipe.deepspeed.get("zero_optimization", {}).get("stage", 0)
    counts = parameter_counts(built.model)
    weights, copied = counts["all"], count_parameters([built.model]) - counts["all"]
    parts = {"weights": 4, "gradients": 4, "moments": 4 * _moments_a_weight(_groups(built))}
    shared = {0: (), 1: ("moments",), 2: ("moments", "gradients"), 3: ("moments", "gradients", "weights")}[stage]
    own = weights - _elsewhere(built)
    fixed = 4 * copied + sum(size * (weights / ranks if name in shared else own) for name, size in parts.items())
    trunk = built.recipe.trunk.settings
    places = max(built.batches[0].places, 1)
    per_block = 34 if not trunk.get("checkpointing") else 2
    activations = places * trunk.get("width", 0) * trunk.get("depth", 0) * per_block * 2
    return (
        f"memory a rank, estimated: {fixed / 2**20:,.0f} MiB for weights, gradients and moments (ZeRO stage {stage}), "
        f"about {activations / 2**20:,.0f} MiB for the activations of a micro-batch with nothing dropped"
    )


def _elsewhere(built: Built) -> float:
    """Weights of experts that a rank leaves to the others."""
    routed = [part.experts for part in built.model.backbone.modules() if isinstance(part, RoutedExperts)]
    return count_parameters(routed) * (1 - 1 / built.recipe.training.ep_size)


def _groups(built: Built) -> Groups:
    optimizer = built.recipe.training.optimizer
    return groups_of(built.model, optimizer, optimizer.rule.build())


def _moments_a_weight(groups: Groups) -> float:
    """What an optimiser remembers of a number, on average."""
    sizes = [(sum(p.numel() for p in group["params"]), len(group["update"].moments)) for group in groups]
    return sum(size * moments for size, moments in sizes) / max(sum(size for size, _ in sizes), 1)


def _updates(built: Built) -> Table:
    """Which weights go to which update."""
    table = Table("update", "weight decay", "parameters", "weights (* is any number)", title="optimiser")
    names = {parameter: name for name, parameter in built.model.named_parameters()}
    for group in _groups(built):
        count = sum(parameter.numel() for parameter in group["params"])
        table.add_row(group["update"].name, f"{group['weight_decay']:g}", f"{count:,}", _alike(names, group["params"]))
    return table


def _alike(names: Mapping[nn.Parameter, str], parameters: list[nn.Parameter]) -> str:
    """Names without the numbers of layers, each once."""
    return ", ".join(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", names[parameter]) for parameter in parameters))


def _rates(settings: Recipe) -> Table:
    steps, optimizer = settings.training.steps, settings.training.optimizer
    table = Table("step", "learning rate", title="learning rate")
    marks = {0, optimizer.warmup_steps, steps - 1, *(steps * part // 8 for part in range(8))}
    for step in sorted(mark for mark in marks if 0 <= mark < steps):
        table.add_row(f"{step:,}", f"{learning_rate(optimizer, step, steps):.3e}")
    return table
