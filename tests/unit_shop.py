"""A folder of parts to choose from in a recipe, and how the tests of recipes read and refuse one."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from mmpt.config import dump_yaml, parse_settings, to_plain
from mmpt.errors import ConfigError

FILES = {
    "shop/__init__.py": "",
    "shop/unit/__init__.py": """
        from abc import ABC, abstractmethod

        class Unit(ABC):
            @abstractmethod
            def size(self) -> int: ...
        """,
    "shop/unit/token.py": """
        from shop.unit import Unit

        class TokenUnit(Unit):
            def size(self) -> int:
                return 1
        """,
    "shop/unit/span.py": """
        from mmpt.errors import ConfigError
        from shop.unit import Unit

        class Part(Unit):
            def half(self) -> float:
                return self.size() / 2

        class _Helper(Unit):
            def size(self) -> int:
                return 0

        class SpanUnit(Unit):
            def __init__(self, width: int, *, length: int = 10, rate: float = 0.5) -> None:
                if length > width:
                    raise ConfigError(f"length {length} is more than the width {width}")
                self.width, self.length = width, length

            def size(self) -> int:
                return self.length
        """,
    "shop/unit/strip.py": """
        from dataclasses import dataclass
        from shop.unit import Unit

        @dataclass(frozen=True, kw_only=True)
        class StripUnit(Unit):
            seconds: float
            leads: tuple[str, ...] = ("I", "II")

            def __post_init__(self) -> None:
                if self.seconds <= 0:
                    raise ValueError(f"seconds: expected more than 0, got {self.seconds}")

            def size(self) -> int:
                return len(self.leads)
        """,
    "shop/unit/pair.py": """
        from mmpt.config import Component, component
        from shop.unit import Unit

        class PairUnit(Unit):
            def __init__(
                self,
                width: int,
                *,
                left: Component[Unit] | str = "token",
                right: Component["Unit"] = component(Unit, "span", length=2),
            ) -> None:
                self.parts = (left.build(), right.build(width))

            def size(self) -> int:
                return sum(part.size() for part in self.parts)
        """,
    "shop/unit/notes.py": "NOT_A_PART = 1\n",
    "shop/unit/twins.py": """
        from shop.unit import Unit

        class Left(Unit):
            def size(self) -> int:
                return 2

        class Right(Left):
            pass
        """,
    "elsewhere/__init__.py": "",
    "elsewhere/broken.py": "import there_is_no_such_module\n",
    "elsewhere/mine.py": """
        from shop.unit import Unit

        class MyUnit(Unit):
            def __init__(self, *, x: int) -> None:
                self.x = x

            def size(self) -> int:
                return self.x
        """,
}


def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A folder of parts, and two more parts in a package of somebody else, as long as a fixture lasts."""
    for name, source in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"^ {8}", "", source, flags=re.MULTILINE), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module("shop.unit")
    for name in [name for name in sys.modules if name.split(".")[0] in ("shop", "elsewhere")]:
        del sys.modules[name]


def contract() -> Any:
    return sys.modules["shop.unit"].__dict__["Unit"]


def schema(**annotations: Any) -> Any:
    """A frozen settings dataclass; a tuple is an annotation with its default."""
    body: dict[str, Any] = {"__annotations__": {}}
    for name, annotation in annotations.items():
        if isinstance(annotation, tuple):
            annotation, default = annotation
            body[name] = field(default_factory=default) if callable(default) else default
        body["__annotations__"][name] = annotation
    return dataclass(frozen=True, kw_only=True)(type("Settings", (), body))


def parse(text: str, kind: Any, *overrides: str) -> Any:
    return parse_settings(text, overrides, kind, name="recipe.yaml")


def refused(text: str, kind: Any, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, kind, *overrides)
    return str(caught.value).splitlines()


def same_after_printing(settings: Any) -> bool:
    again = parse_settings(yaml.safe_dump(to_plain(settings)), [], type(settings))
    return again == settings == parse_settings(dump_yaml(settings), [], type(settings))


@dataclass(frozen=True, kw_only=True)
class Trunk:
    depth: int = 12
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"expected a depth of at least 1, got {self.depth}")
