"""Recipes: a YAML file and `a.b.c=value` overrides -> checked, frozen settings.

Keyword-only parameters are settings, positional ones are wired by the program: signatures are the schema, folders of
parts the registry.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Generic, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin

import yaml

from mmpt.errors import ConfigError
from mmpt.located import Given, LocatedYaml, apply_override, locate
from mmpt.parts import find_part, find_parts, parameters, unknown
from mmpt.scalars import SCALARS, scalar, takes

Contract = TypeVar("Contract")
T = TypeVar("T")


class FrozenDict(dict[str, Any]):
    """A dict that can't be changed; unlike a mapping proxy it pickles and still is a dict to others."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("settings are frozen once parsed")

    __setitem__ = __delitem__ = __ior__ = pop = popitem = clear = _refuse
    update = setdefault = cast("Any", _refuse)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class _LocatedError(ConfigError):
    """A ConfigError that names its place already."""


@dataclass(frozen=True)
class Component(Generic[Contract]):
    """A part that is chosen and set, but not yet wired: a checked partial. Nested parts stay Components."""

    target: type
    settings: Mapping[str, Any]
    name: str = field(default="", compare=False)  # what `type:` said
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", FrozenDict(self.settings))
        object.__setattr__(self, "name", self.name or f"{self.target.__module__}.{self.target.__qualname__}")

    def build(self, *wired: Any) -> Contract:
        """The part itself; a ConfigError that it raises gets the recipe's line and path in front."""
        try:
            return self.target(*wired, **self.settings)
        except ConfigError as error:
            if isinstance(error, _LocatedError) or not self.where:
                raise
            raise _LocatedError(f"{self.where}: {error}") from error


def load_settings(path: Path, overrides: Sequence[str], schema: type[T]) -> T:
    """The settings of a recipe file; all that is wrong with it is raised as one ConfigError, a line each."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x}") from error
    return parse_settings(text, overrides, schema, name=str(path))


def parse_settings(text: str, overrides: Sequence[str], schema: type[T], *, name: str = "<recipe>") -> T:
    """Like load_settings, from the text itself."""
    reader = _Reader()
    root = LocatedYaml(text, name, reader.problems, numbered=True).read()
    if root is None:
        raise ConfigError(f"{name}: expected a recipe, got an empty file")
    for override in overrides:
        try:
            root = apply_override(root, override, reader.problems)
        except ConfigError as error:
            reader.problems.append(str(error))
    return reader.finish(reader.read(root, schema, ""))


def component(contract: type[Contract], type_: str, /, **settings: Any) -> Component[Contract]:
    """A part chosen in Python, checked as a recipe's is: `component(Unit, "span", length=10)`."""
    return chosen(Component[contract], {"type": type_, **settings}, type_)


def chosen(annotation: Any, given: Any, name: str) -> Any:
    """What a recipe would say at `name`, said in Python: a part by its name or a dict, a dict of settings."""
    reader = _Reader()
    return reader.finish(reader.read(locate(given), annotation, name))


def to_plain(settings: Any) -> Any:
    """Settings as plain dicts, lists and scalars that YAML prints, defaults included; parsing them gives the same."""
    if isinstance(settings, Component):
        return {"type": settings.name} | to_plain(settings.settings)
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        names = [name for name, parameter in parameters(type(settings)).items() if not parameter.wired]
        return {name: to_plain(getattr(settings, name)) for name in names}
    if isinstance(settings, Mapping):
        return {name: to_plain(value) for name, value in settings.items()}
    if isinstance(settings, tuple | list):
        return [to_plain(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


def dump_yaml(settings: Any) -> str:
    """Settings as a recipe that says everything."""
    return yaml.safe_dump(to_plain(settings), sort_keys=False, allow_unicode=True, width=120)


# ---- from values and annotations to settings


def _kind(annotation: Any) -> Any:
    return get_origin(annotation) or annotation


def _fits(given: Given, annotation: Any) -> bool:
    """Whether a member of a union is meant, seen from outside."""
    kind, value = _kind(annotation), given.value
    if kind in SCALARS:
        return takes(kind, value)
    if kind is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(annotation))
    if kind is Component:
        return isinstance(value, dict | Component) or (isinstance(value, str) and not takes(float, value))
    if kind is tuple:
        return isinstance(value, list)
    return kind is Any or isinstance(value, dict) or (inspect.isclass(kind) and isinstance(value, kind))


def _in_words(annotation: Any) -> str:
    kind, members = _kind(annotation), get_args(annotation)
    if kind in SCALARS:
        return SCALARS[kind]
    if kind in (Union, UnionType):
        return " or ".join(_in_words(member) for member in members)
    if kind is Literal:
        return f"a choice ({', '.join(map(str, members))})"
    if kind is Component:
        return f"a {members[0].__name__} ({', '.join(find_parts(members[0].__module__, members[0]))})"
    if kind is tuple:
        return "a list" if not members or members[-1] is Ellipsis else f"a list of {len(members)}"
    return "a value" if kind is Any else "a mapping"


def _frozen(given: Given) -> Any:
    if isinstance(given.value, dict):
        return FrozenDict({name: _frozen(item) for name, item in given.value.items()})
    if isinstance(given.value, list):
        return tuple(_frozen(item) for item in given.value)
    is_number = re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+", given.plain)
    return float(given.plain) if is_number else given.value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class _Reader:
    """Reads what was given as what the annotations ask for, and gathers all that is wrong.

    A method whose value is wrong notes the problem and returns None, which `finish` keeps from ever being used.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.readers: dict[Any, Callable[[Given, Any, str], Any]] = {
            Component: self._component,
            Union: self._union,
            UnionType: self._union,
            Literal: self._literal,
            tuple: self._tuple,
            dict: self._dict,
            Mapping: self._dict,
        }

    def finish(self, settings: Any) -> Any:
        if self.problems:
            raise ConfigError("\n".join(dict.fromkeys(self.problems)))
        return settings

    def read(self, given: Given, annotation: Any, path: str) -> Any:
        kind = _kind(annotation)
        if kind is Any:
            return _frozen(given)
        if kind in SCALARS:
            return scalar(kind, given.value) if takes(kind, given.value) else self._expected(given, kind, path)
        if kind in self.readers and annotation is not Component:
            return self.readers[kind](given, annotation, path)
        if inspect.isclass(kind) and dataclasses.is_dataclass(kind) and kind is not Component:
            return self._dataclass(given, kind, path)
        return self._complain(given, path, f"its signature asks for {annotation}, which no recipe can say")

    def _complain(self, given: Given, path: str, message: str) -> None:
        self.problems.append(": ".join(part for part in (given.where, path, message) if part))

    def _expected(self, given: Given, annotation: Any, path: str) -> None:
        self._complain(given, path, f"expected {_in_words(annotation)}, got {given}")

    def _union(self, given: Given, annotation: Any, path: str) -> Any:
        members = [member for member in get_args(annotation) if member is not NoneType]
        if given.value is None and NoneType in get_args(annotation):
            return None
        # the narrower reading first: text names a part before it is taken as mere text
        members.sort(key=lambda member: {Literal: 0, str: 2, Path: 2}.get(_kind(member), 1))
        fitting = [member for member in members if _fits(given, member)]
        if not fitting and len(members) > 1:
            return self._expected(given, annotation, path)
        return self.read(given, (fitting or members)[0], path)

    def _literal(self, given: Given, annotation: Any, path: str) -> Any:
        if _fits(given, annotation):
            return given.value
        choices = [str(choice) for choice in get_args(annotation)]
        if isinstance(given.value, str):
            return self._complain(given, path, unknown("a choice", choices, given.value))
        return self._expected(given, annotation, path)

    def _tuple(self, given: Given, annotation: Any, path: str) -> Any:
        members = get_args(annotation) or (Any, ...)
        if not isinstance(given.value, list):
            return self._expected(given, annotation, path)
        if members[-1] is Ellipsis:
            members = members[:1] * len(given.value)
        if len(members) != len(given.value):
            return self._complain(given, path, f"expected {len(members)} values, got {len(given.value)}")
        pairs = enumerate(zip(given.value, members, strict=True))
        return tuple(self.read(item, member, f"{path}[{index}]") for index, (item, member) in pairs)

    def _dict(self, given: Given, annotation: Any, path: str) -> Any:
        if not isinstance(given.value, dict):
            return self._expected(given, annotation, path)
        member = (get_args(annotation) or (str, Any))[1]
        return FrozenDict({name: self.read(item, member, _join(path, name)) for name, item in given.value.items()})

    def _dataclass(self, given: Given, kind: type, path: str) -> Any:
        if isinstance(given.value, kind):  # a default: its own defaults may be short forms still
            kind = type(given.value)
            names = [name for name, parameter in parameters(kind).items() if not parameter.wired]
            given = locate({name: getattr(given.value, name) for name in names}, given.where)
        if not isinstance(given.value, dict):
            return self._expected(given, kind, path)
        return self._call(given, kind, path, self._settings(given, kind, path))

    def _component(self, given: Given, annotation: Any, path: str) -> Any:
        contract = get_args(annotation)[0]
        if isinstance(given.value, Component):
            fits = issubclass(given.value.target, contract)
            return given.value if fits else self._expected(given, annotation, path)
        inside = given.value if isinstance(given.value, dict) else {"type": given}
        name = inside.get("type", Given(None, given.where))
        path_of_name = path if name is given else _join(path, "type")
        if not isinstance(name.value, str):
            return self._expected(name, annotation, path_of_name)
        try:
            target = find_part(name.value, contract)
        except ConfigError as error:
            return self._complain(name, path_of_name, str(error))
        rest = {key: item for key, item in inside.items() if key != "type"}
        settings = self._settings(dataclasses.replace(given, value=rest), target, path)
        if settings is None:
            return None
        if dataclasses.is_dataclass(target) and not any(part.wired for part in parameters(target).values()):
            self._call(given, target, path, settings)  # it can be made right here, so its own checks speak now
        return Component(target, settings, name.value, f"{given.where}: {path}" if given.where else "")

    def _call(self, given: Given, kind: type, path: str, settings: dict[str, Any] | None) -> Any:
        if settings is None:
            return None
        try:
            return kind(**settings)
        except ValueError as error:
            return self._complain(given, path, str(error))

    def _settings(self, given: Given, kind: type, path: str) -> dict[str, Any] | None:
        """All keyword-only parameters of the class, given or by default; None if there was a problem."""
        before, known = len(self.problems), parameters(kind)
        settings = {name: parameter for name, parameter in known.items() if not parameter.wired}
        for name in [name for name in given.value if name not in settings]:
            message = unknown(f"a setting of {kind.__name__}", list(settings), name)
            message = f"{name!r} is set by the program, not by the recipe" if name in known else message
            self._complain(given.value[name], _join(path, name), message)
        values = {}
        for name, parameter in settings.items():
            item = given.value.get(name)
            if item is None and parameter.default is None:
                words = _in_words(parameter.annotation)
                self._complain(given, _join(path, name), f"missing; expected {words}")
                continue
            item = item or locate(parameter.default() if parameter.default else None, given.where)
            values[name] = self.read(item, parameter.annotation, _join(path, name))
        return values if len(self.problems) == before else None
