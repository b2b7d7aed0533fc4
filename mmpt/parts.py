"""Folders as registries and signatures as schemas: from names to parts, from parts to what they take."""

import dataclasses
import difflib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast, get_type_hints

from mmpt.errors import ConfigError


def find_parts(folder: str, contract: type | None = None) -> dict[str, type]:
    """The parts of a package by file name: files that define one class which keeps the contract (or any of its own)."""
    package = _imported(folder)
    own = tuple(kind for kind in vars(package).values() if inspect.isclass(kind) and kind.__module__ == folder)
    contracts = own if contract is None else (contract,)
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
    found = {name: _parts_of(_imported(f"{folder}.{name}"), contracts) for name in names}
    return {name: parts[0] for name, parts in sorted(found.items()) if len(parts) == 1}


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} can't be imported: {error}") from error


def _parts_of(module: ModuleType, contracts: tuple[type, ...]) -> list[type]:
    classes = dict.fromkeys(kind for kind in vars(module).values() if inspect.isclass(kind))
    return [
        kind
        for kind in classes
        if kind.__module__ == module.__name__ and issubclass(kind, contracts)
        if not inspect.isabstract(kind) and not kind.__name__.startswith("_")
    ]


def find_part(name: str, contract: type) -> type:
    """The class that `type: name` means: a file of the contract's folder, else my_package.my_part or its .Class.

    A folder's `RENAMED` has names that its files go by as well: recipes of older runs are read all their lives.
    """
    folder, inside = contract.__module__, "." not in name
    name = getattr(_imported(folder), "RENAMED", {}).get(name, name)
    if not all(word.isidentifier() for word in name.split(".")) or (inside and not find_spec(f"{folder}.{name}")):
        raise ConfigError(unknown(f"a {contract.__name__}", list(find_parts(folder, contract)), name))
    module_name, class_name = f"{folder}.{name}" if inside else name, ""
    if not inside and name.rpartition(".")[2][0].isupper():
        module_name, _, class_name = name.rpartition(".")
    parts = _parts_of(_imported(module_name), (contract,))
    parts = [part for part in parts if class_name in ("", part.__name__)]
    if len(parts) != 1:
        found = ", ".join(f"{module_name}.{part.__name__}" for part in parts) or "none"
        expected = f"a {contract.__name__}" + (f" named {class_name}" if class_name else "")
        raise ConfigError(f"expected one class in {module_name} that is {expected}, got {found}")
    return parts[0]


def unknown(expected: str, choices: Sequence[str], name: str) -> str:
    """The message about a name that there is not, with the nearest that there is."""
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"expected {expected} ({', '.join(choices) or 'there is none'}), got {name!r}{hint}"


@dataclass(frozen=True)
class Parameter:
    """What a signature says of one."""

    annotation: Any
    default: Callable[[], Any] | None  # None: must be given
    wired: bool


def parameters(kind: type) -> dict[str, Parameter]:
    """What a class takes, from its signature."""
    factories: dict[str, Any] = {}
    signed = kind if dataclasses.is_dataclass(kind) else kind.__init__
    # typing evaluates "Unit" once for all modules that say Component["Unit"], unless the local names are its own
    hints = get_type_hints(signed, localns={})
    if dataclasses.is_dataclass(kind):
        factories = {item.name: item.default_factory for item in dataclasses.fields(kind)}
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        default = factories.get(name, MISSING)
        if default is MISSING:
            value = parameter.default
            default = None if value is parameter.empty else lambda value=value: value
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            wired = parameter.kind is not parameter.KEYWORD_ONLY
            found[name] = Parameter(hints.get(name, Any), cast("Callable[[], Any] | None", default), wired)
    return found
