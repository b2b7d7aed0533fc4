"""Values of a YAML file that know their place: file, line, and the override that replaced them."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

import yaml

from mmpt.errors import ConfigError


@dataclass(frozen=True)
class Given:
    """A scalar, or a list or dict of Given, and its place; `plain` is what an unquoted scalar said."""

    value: Any
    where: str = ""
    plain: str = ""

    def __str__(self) -> str:
        if isinstance(self.value, bool):
            said = str(self.value).lower()
            return said if self.plain.lower() in ("", said) else f"{said} (as YAML reads {self.plain}; quote it)"
        names = {NoneType: "nothing", dict: "a mapping", list: "a list"}
        return names.get(type(self.value)) or repr(self.value)


def locate(value: Any, where: str = "") -> Given:
    """A plain value, all of whose parts stand at one place."""
    if isinstance(value, Mapping):
        return Given({name: locate(item, where) for name, item in value.items()}, where)
    if isinstance(value, list | tuple):
        return Given([locate(item, where) for item in value], where)
    return Given(value, where)


class LocatedYaml:
    """One YAML text; composed, not loaded, because only nodes know their lines."""

    def __init__(self, text: str, name: str, problems: list[str], *, numbered: bool) -> None:
        self.text, self.name, self.problems, self.numbered = text, name, problems, numbered
        self.done: dict[int, Given | None] = {}  # an anchored node is read once; None while it is being read

    def read(self) -> Given | None:
        """The whole document; None where there is none. Raises ConfigError for what is not YAML."""
        try:
            self.loader = yaml.SafeLoader(self.text)
            root = self.loader.get_single_node()
            return None if root is None else self._node(root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = ", ".join(part for part in (error.context, error.problem) if part)
            raise ConfigError(f"{self._where(mark.line if mark else 0)}: not valid YAML: {said}") from error
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, int(error.position))
            raise ConfigError(f"{self._where(line)}: not valid YAML: {error.reason}") from error

    def _where(self, line: int) -> str:
        return f"{self.name}:{line + 1}" if self.numbered else self.name

    def _complain(self, node: yaml.Node, message: str) -> None:
        self.problems.append(f"{self._where(node.start_mark.line)}: {message}")

    def _node(self, node: yaml.Node) -> Given:
        if id(node) in self.done:
            done = self.done[id(node)]
            if done is None:
                self._complain(node, "an alias refers to the value that it stands in")
            return done or Given(None)
        self.done[id(node)] = None
        is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
        plain = node.value if is_plain else ""
        if node.tag not in ("!", self.loader.resolve(type(node), plain, (is_plain, True))):
            self._complain(node, f"the tag {node.tag!r} has no meaning in a recipe")
        value = self._mapping(node) if isinstance(node, yaml.MappingNode) else self._unnamed(node)
        done = self.done[id(node)] = Given(value, self._where(node.start_mark.line), plain)
        return done

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Given]:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._complain(key, "expected a name before ':', got a list or a mapping")
            elif first.setdefault(key.value, key) is not key:
                line = first[key.value].start_mark.line + 1
                self._complain(key, f"{key.value!r} stands twice in one mapping, first on line {line}")
        self.loader.flatten_mapping(node)  # `<<: *anchor`: what it brings comes first, so that the mapping's own wins
        pairs = [(key, self._node(value)) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        return {key.value: dataclasses.replace(item, where=self._where(key.start_mark.line)) for key, item in pairs}

    def _unnamed(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self._node(item) for item in node.value]
        kind = node.tag.rpartition(":")[2]
        if kind == "int" and re.fullmatch(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)", node.value):
            return int(node.value, 0)
        if kind in ("float", "bool", "null") and ":" not in node.value:
            return yaml.safe_load(node.value)
        return node.value  # 1:30 and 010 too: YAML 1.1 takes them for 90 and 8, no setting takes text for a number


def apply_override(root: Given, override: str, problems: list[str]) -> Given:
    """The document with the value at `a.b.c` replaced; raises ConfigError where it can't stand there."""
    path, equals, text = override.partition("=")
    where, names = f"override {override}", path.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"{where}: expected a.b.c=value")
    value = LocatedYaml(text, where, problems, numbered=False).read() or Given(None, where)
    return _replaced(root, names, value, path)


def _replaced(given: Given, names: list[str], value: Given, path: str) -> Given:
    """A copy, since what an alias shares must change in one place only."""
    if not names:
        return value
    if given.value is None:
        given = Given({}, value.where)
    inside = {"type": given} if isinstance(given.value, str) else given.value  # `unit: span` is `unit: {type: span}`
    if not isinstance(inside, dict):
        raise ConfigError(f"{value.where}: {path}: there is no setting {names[0]!r} in {given} ({given.where})")
    changed = _replaced(inside.get(names[0], Given(None)), names[1:], value, path)
    return dataclasses.replace(given, value=inside | {names[0]: changed})
