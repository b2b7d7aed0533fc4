"""The groups of parameters that a model has, and the optimiser over them that the recipe's rule makes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from mmpt.config import Component
from mmpt.errors import ConfigError
from mmpt.parts import find_parts
from mmpt.settings import OptimizerSettings
from mmpt.training.held import Groups, Held, HeldAdamW
from mmpt.training.optimizers import Rule, Update


def check_rule(rule: Component[Rule], deepspeed_settings: Mapping[str, Any]) -> None:
    """Refuse under ZeRO, which divides tensors, what needs them whole."""
    stage = deepspeed_settings.get("zero_optimization", {}).get("stage", 0)
    if stage and not rule.target.by_element:
        able = [name for name, part in find_parts(Rule.__module__, Rule).items() if part.by_element]
        raise ConfigError(
            f"training.optimizer.rule: {rule.name} needs whole matrices, and deepspeed.zero_optimization.stage "
            f"{stage} leaves every rank flat pieces of them; use stage 0, or the rule {' or '.join(able)}"
        )


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of the weights of linear layers inside blocks, of the trunk and of decoders; a router's gate is a head."""
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module) is nn.Linear and "blocks" in name.split(".")
    }


def groups_of(
    model: nn.Module, settings: OptimizerSettings, rule: Rule, scales: Mapping[str, float] | None = None
) -> Groups:
    """Parameters with one update, decay and share of the learning rate: matrices decay; biases, norms, vectors don't.

    Args:
        model: whose trainable parameters these are.
        settings: of the optimiser.
        rule: which update each has.
        scales: shares of the learning rate by parameter name; those it lacks have all of it.
    """
    hidden = hidden_matrices(model)
    found: dict[tuple[bool, float, Update], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 1.0 if scales is None else scales.get(name, 1.0)
            kind = parameter.ndim < 2, scale, rule.update(name in hidden)
            found.setdefault(kind, []).append(parameter)
    return [
        {
            "name": f"{update.name}: {'vectors' if single else 'matrices'} x {scale:g}",
            "params": own,
            "weight_decay": 0.0 if single else settings.weight_decay,
            "lr_scale": scale,
            "update": update,
        }
        for (single, scale, update), own in sorted(found.items(), key=lambda item: item[0])
    ]


def optimizer_for(
    model: nn.Module,
    settings: OptimizerSettings,
    scales: Mapping[str, float] | None = None,
    arrange: Callable[[Groups], Groups] | None = None,
) -> Held:
    """The rule's optimiser over `groups_of` the model, which `arrange` divides more."""
    rule = settings.rule.build()
    groups = groups_of(model, settings, rule, scales)
    groups = arrange(groups) if arrange else groups
    adamw = partial(HeldAdamW, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True)
    return rule.optimizer(groups, settings.learning_rate, adamw)
