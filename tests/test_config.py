"""Recipes: what is read, what is refused, and with which sentence."""

import pickle
import re
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
import yaml

from mmpt.config import Component, component, dump_yaml, find_parts, load_settings, parse_settings, to_plain
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


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A folder of parts, and two more parts in a package of somebody else."""
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


# ---- scalars


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (bool, "true", True),
        (int, "3", 3),
        (int, "1_000", 1000),
        (int, "0x10", 16),
        (int, "-2", -2),
        (float, "0.5", 0.5),
        (float, "1", 1.0),
        (float, "1e-4", 1e-4),
        (float, "'2.5'", 2.5),
        (float, ".inf", float("inf")),
        (str, "word", "word"),
        (str, "2024-01-01", "2024-01-01"),
        (str, "''", ""),
        (Path, "a/b", Path("a/b")),
        (int | None, "null", None),
        (int | None, "", None),
        (int | None, "3", 3),
        (None, "null", None),
        (Literal["a", 2], "a", "a"),
        (Literal["a", 2], "2", 2),
        (Literal["auto"] | int, "auto", "auto"),
        (Literal["auto"] | int, "4", 4),
        (tuple[int, ...], "[1, 2]", (1, 2)),
        (tuple[int, ...], "[]", ()),
        (tuple[int, str], "[1, a]", (1, "a")),
        (tuple[tuple[int, ...], ...], "[[1], [2, 3]]", ((1,), (2, 3))),
        (dict[str, int], "{a: 1, 2: 3, on: 4}", {"a": 1, "2": 3, "on": 4}),
        (dict[str, Any], "{a: [1e-4, {b: x}], c: null}", {"a": (1e-4, {"b": "x"}), "c": None}),
        (Any, "yes", True),
    ],
)
def test_a_value_of_the_right_kind_is_taken(annotation: Any, text: str, value: Any) -> None:
    settings = parse(f"x: {text}", schema(x=annotation))
    assert settings.x == value
    assert type(settings.x) is type(value) or isinstance(value, dict)
    assert same_after_printing(settings)


@pytest.mark.parametrize(
    ("annotation", "text", "sentence"),
    [
        (bool, "1", "expected true or false, got 1"),
        (bool, "'true'", "expected true or false, got 'true'"),
        (int, "true", "expected a whole number, got true"),
        (int, "yes", "expected a whole number, got true (as YAML reads yes; quote it)"),
        (int, "1.0", "expected a whole number, got 1.0"),
        (int, "'3'", "expected a whole number, got '3'"),
        (int, "1:30", "expected a whole number, got '1:30'"),
        (int, "010", "expected a whole number, got '010'"),
        (int, "", "expected a whole number, got nothing"),
        (int, "[1]", "expected a whole number, got a list"),
        (float, "true", "expected a number, got true"),
        (float, "abc", "expected a number, got 'abc'"),
        (float, ".nan", "expected a number, got nan"),
        (float, "infinity", "expected a number, got 'infinity'"),
        (float, "{a: 1}", "expected a number, got a mapping"),
        (str, "3", "expected text, got 3"),
        (str, "no", "expected text, got false (as YAML reads no; quote it)"),
        (Path, "3", "expected a path, got 3"),
        (int | str, "[1]", "expected a whole number or text, got a list"),
        (int | None, "a", "expected a whole number, got 'a'"),
        (Literal["sum", "mean"], "men", "expected a choice (sum, mean), got 'men'; did you mean 'mean'?"),
        (Literal[1, 2], "true", "expected a choice (1, 2), got true"),
        (tuple[int, ...], "3", "expected a list, got 3"),
        (tuple[int, int], "[3]", "expected 2 values, got 1"),
        (dict[str, int], "[3]", "expected a mapping, got a list"),
        (Trunk, "3", "expected a mapping, got 3"),
        (complex, "3", "its signature asks for <class 'complex'>, which no recipe can say"),
        (Component, "3", "its signature asks for <class 'mmpt.config.Component'>, which no recipe can say"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_what_was_expected_and_what_came(
    annotation: Any, text: str, sentence: str
) -> None:
    assert refused(f"x: {text}", schema(x=annotation)) == [f"recipe.yaml:1: x: {sentence}"]


def test_a_wrong_item_of_a_list_is_named_by_its_place() -> None:
    text = "x:\n  - 1\n  - b\n"
    assert refused(text, schema(x=tuple[int, ...])) == ["recipe.yaml:3: x[1]: expected a whole number, got 'b'"]


def test_a_wrong_value_in_a_mapping_is_named_by_its_path() -> None:
    text = "x:\n  a: 1\n  b: c\n"
    assert refused(text, schema(x=dict[str, int])) == ["recipe.yaml:3: x.b: expected a whole number, got 'c'"]


# ---- dataclasses


def test_defaults_are_filled_in_at_every_depth() -> None:
    settings = parse("name: a", schema(name=str, trunk=(Trunk, Trunk), steps=(int, 5)))
    assert (settings.trunk, settings.steps) == (Trunk(), 5)
    assert to_plain(settings) == {"name": "a", "trunk": {"depth": 12, "rate": 0.1}, "steps": 5}


def test_an_unknown_key_names_the_nearest_one() -> None:
    [line] = refused("trunk:\n  depht: 3\n", schema(trunk=Trunk))
    assert line.startswith("recipe.yaml:2: trunk.depht: expected a setting of Trunk (depth, rate), got 'depht'; did")


def test_a_missing_key_says_what_is_expected_of_it() -> None:
    assert refused("{}", schema(x=int)) == ["recipe.yaml:1: x: missing; expected a whole number"]


def test_a_value_that_post_init_refuses_is_located() -> None:
    lines = refused("\ntrunk:\n  depth: 0\n", schema(trunk=Trunk))
    assert lines == ["recipe.yaml:2: trunk: expected a depth of at least 1, got 0"]


def test_all_problems_of_a_file_and_its_overrides_come_at_once() -> None:
    lines = refused("a: x\nd: 4\ntrunk: {depth: 0}\na: y\n", schema(a=int, b=int, trunk=Trunk), "c=1", "b")
    assert [line.partition(": ")[0] for line in lines] == [
        "recipe.yaml:4",
        "override b",
        "recipe.yaml:2",
        "override c=1",
        "recipe.yaml:4",
        "recipe.yaml:1",
        "recipe.yaml:3",
    ]


def test_settings_are_frozen_and_pickle() -> None:
    settings = parse("{u: span, d: {a: [1]}}", Recipe)
    mappings = (settings.u.settings, settings.d)
    with pytest.raises(FrozenInstanceError):
        settings.u = None
    for mapping in mappings:
        with pytest.raises(TypeError, match=r"frozen"):
            mapping["a"] = 2
        with pytest.raises(TypeError, match=r"frozen"):
            mapping.update(a=2)
    assert pickle.loads(pickle.dumps(settings)) == settings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    u: Any
    d: dict[str, Any]


@pytest.fixture(autouse=True)
def recipe_of_units(shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Recipe.__annotations__, "u", Component[contract()])


# ---- parts


def test_a_part_is_chosen_by_type_and_built_with_what_is_wired() -> None:
    unit = parse("unit: {type: span, length: 3}", schema(unit=Component[contract()])).unit
    assert unit.settings == {"length": 3, "rate": 0.5}
    built = unit.build(8)
    assert (built.width, built.length, type(built).__name__) == (8, 3, "SpanUnit")


def test_a_plain_name_is_short_for_a_mapping_with_type() -> None:
    kind = schema(unit=Component[contract()])
    assert parse("unit: span", kind) == parse("unit: {type: span}", kind)


def test_a_part_prints_type_first_and_every_setting() -> None:
    settings = parse("unit: pair", schema(unit=Component[contract()]))
    span = {"type": "span", "length": 2, "rate": 0.5}
    assert to_plain(settings) == {"unit": {"type": "pair", "left": {"type": "token"}, "right": span}}
    assert list(to_plain(settings)["unit"]) == ["type", "left", "right"]
    assert dump_yaml(settings).startswith("unit:\n  type: pair\n")
    assert same_after_printing(settings)


def test_nested_parts_stay_components_which_the_part_builds() -> None:
    text = "unit: {type: pair, left: token, right: {type: span, length: 4}}"
    unit = parse(text, schema(unit=Component[contract()])).unit
    assert isinstance(unit.settings["left"], Component)
    assert unit.build(9).size() == 5


def test_a_default_may_be_a_part_by_name_by_mapping_or_made_in_python() -> None:
    made = component(contract(), "span", length=7)
    kind = schema(
        a=(Component[contract()] | str, "token"),
        b=(Component[contract()] | dict, lambda: {"type": "span", "length": 7}),
        c=(Component[contract()], made),
        d=(Component[contract()] | None, None),
    )
    settings = parse("{}", kind)
    assert (settings.a.name, settings.b, settings.c, settings.d) == ("token", made, made, None)


def test_the_short_form_is_resolved_in_a_default_dataclass_too() -> None:
    inner = schema(unit=(Component[contract()] | str, "token"))
    assert parse("{}", schema(inner=(inner, inner))).inner.unit == component(contract(), "token")


def test_parts_may_stand_in_a_mapping_and_in_a_list() -> None:
    kind = schema(named=dict[str, Component[contract()]], listed=tuple[Component[contract()], ...])
    settings = parse("named: {a: token, b: {type: span}}\nlisted: [token, span]", kind)
    assert settings.named == dict(zip("ab", settings.listed, strict=True))
    assert same_after_printing(settings)


@pytest.mark.parametrize(("text", "value"), [("0.15", 0.15), ("1", 1.0), ("1e-1", 0.1)])
def test_a_number_or_a_part_takes_a_number(text: str, value: float) -> None:
    for annotation in (float | Component[contract()], Component[contract()] | float):
        settings = parse(f"x: {text}", schema(x=annotation))
        assert settings.x == value
        assert type(settings.x) is float
        assert same_after_printing(settings)


@pytest.mark.parametrize("text", ["span", "{type: span}"])
def test_a_number_or_a_part_takes_a_part(text: str) -> None:
    settings = parse(f"x: {text}", schema(x=float | Component[contract()]))
    assert settings.x == component(contract(), "span")


def test_text_is_first_a_literal_then_a_part_and_last_mere_text() -> None:
    kind = schema(x=str | Component[contract()] | Literal["token"])
    assert parse("x: token", kind).x == "token"
    assert parse("x: span", kind).x == component(contract(), "span")
    assert parse("x: '3'", kind).x == "3"


def test_a_number_or_a_part_refuses_the_rest_with_both() -> None:
    [line] = refused("x: true", schema(x=float | Component[contract()]))
    assert line == "recipe.yaml:1: x: expected a number or a Unit (pair, span, strip, token), got true"


def test_a_part_from_elsewhere_is_named_by_module_or_class() -> None:
    kind = schema(unit=Component[contract()])
    for name in ("elsewhere.mine", "elsewhere.mine.MyUnit", "shop.unit.twins.Right"):
        settings = parse(f"unit: {{type: {name}{', x: 4' if 'mine' in name else ''}}}", kind)
        assert to_plain(settings)["unit"]["type"] == name
        assert same_after_printing(settings)
    assert parse("unit: shop.unit.twins.Right", kind).unit.build().size() == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("spam", "expected a Unit (pair, span, strip, token), got 'spam'; did you mean 'span'?"),
        ("'a b'", "expected a Unit (pair, span, strip, token), got 'a b'"),
        ("''", "expected a Unit (pair, span, strip, token), got ''"),
        ("..span", "expected a Unit (pair, span, strip, token), got '..span'; did you mean 'span'?"),
        ("'1e-4'", "expected a Unit (pair, span, strip, token), got '1e-4'"),
        ("notes", "expected one class in shop.unit.notes that is a Unit, got none"),
        ("twins", "expected one class in shop.unit.twins that is a Unit, got shop.unit.twins.Left, shop.unit.twins.R"),
        ("nowhere.part", "nowhere.part can't be imported: No module named 'nowhere'"),
        ("elsewhere.broken", "elsewhere.broken can't be imported: No module named 'there_is_no_such_module'"),
        ("elsewhere.mine.Your", "expected one class in elsewhere.mine that is a Unit named Your, got none"),
        ("yaml.loader", "expected one class in yaml.loader that is a Unit, got none"),
        ("3", "expected a Unit (pair, span, strip, token), got 3"),
        ("", "expected a Unit (pair, span, strip, token), got nothing"),
        ("[span]", "expected a Unit (pair, span, strip, token), got a list"),
    ],
)
def test_an_unusable_part_is_refused_with_the_choices(text: str, sentence: str) -> None:
    [line] = refused(f"unit: {text}", schema(unit=Component[contract()]))
    assert line.startswith(f"recipe.yaml:1: unit: {sentence}")


def test_a_mapping_without_type_is_refused() -> None:
    [line] = refused("unit:\n  length: 3\n", schema(unit=Component[contract()]))
    assert line == "recipe.yaml:1: unit.type: expected a Unit (pair, span, strip, token), got nothing"


def test_settings_of_a_part_are_checked_like_any_other() -> None:
    lines = refused("unit:\n  type: span\n  length: a\n  lenth: 3\n", schema(unit=Component[contract()]))
    assert lines == [
        "recipe.yaml:4: unit.lenth: expected a setting of SpanUnit (length, rate), got 'lenth'; did you mean 'length'?",
        "recipe.yaml:3: unit.length: expected a whole number, got 'a'",
    ]


def test_what_the_program_wires_may_not_stand_in_a_recipe() -> None:
    lines = refused("unit: {type: span, width: 3}", schema(unit=Component[contract()]))
    assert lines == ["recipe.yaml:1: unit.width: 'width' is set by the program, not by the recipe"]


def test_positional_fields_of_a_dataclass_are_wired() -> None:
    @dataclass(frozen=True)
    class Part(contract()):
        width: int
        length: int = field(default=2, kw_only=True)

        def size(self) -> int:
            return self.width * self.length

    sys.modules["elsewhere.part"] = ModuleType("elsewhere.part")
    Part.__module__, Part.__qualname__ = "elsewhere.part", "Part"
    sys.modules["elsewhere.part"].__dict__["Part"] = Part
    kind = schema(unit=Component[contract()])
    assert refused("unit: {type: elsewhere.part, width: 3}", kind)[0].endswith("not by the recipe")
    assert parse("unit: elsewhere.part", kind).unit.build(4).size() == 8


def test_a_dataclass_part_with_nothing_to_wire_is_checked_at_once() -> None:
    lines = refused("\nunit:\n  type: strip\n  seconds: -1\n", schema(unit=Component[contract()]))
    assert lines == ["recipe.yaml:2: unit: seconds: expected more than 0, got -1.0"]


def test_what_a_part_refuses_when_it_is_built_still_names_the_line_once() -> None:
    kind = schema(unit=Component[contract()])
    nested = parse("\nunit: {type: pair, right: {type: span, length: 5}}", kind).unit
    with pytest.raises(ConfigError, match=r"^recipe.yaml:2: unit.right: length 5 is more than the width 3$"):
        nested.build(3)


def test_a_part_made_in_python_is_checked() -> None:
    assert component(contract(), "span", length=3).build(8).size() == 3
    inner = component(contract(), "token")
    assert component(contract(), "pair", left=inner).settings["left"] is inner
    with pytest.raises(ConfigError, match=r"^span.length: expected a whole number, got 'a'$"):
        component(contract(), "span", length="a")
    with pytest.raises(ConfigError, match=r"^spam.type: expected a Unit .*; did you mean 'span'\?$"):
        component(contract(), "spam")
    with pytest.raises(ConfigError, match=r"^length 9 is more than the width 8$"):
        component(contract(), "span", length=9).build(8)


def test_a_part_of_another_contract_is_refused() -> None:
    other = Component(Trunk, {})
    with pytest.raises(ConfigError, match=r"pair.left: expected a Unit"):
        component(contract(), "pair", left=other)


def test_a_part_that_cannot_be_imported_spoils_a_listing_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "shop/unit/draft.py").write_text("import there_is_no_such_module\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^shop.unit.draft can't be imported: No module named"):
        find_parts("shop.unit")


def test_a_listing_of_a_folder_has_its_parts_only() -> None:
    parts = {name: part.__name__ for name, part in find_parts("shop.unit").items()}
    assert parts == {"pair": "PairUnit", "span": "SpanUnit", "strip": "StripUnit", "token": "TokenUnit"}


def test_contracts_of_one_name_in_two_modules_are_told_apart() -> None:
    source = "from mmpt.config import Component\nclass Unit: pass\nclass Part:\n"
    source += '    def __init__(self, *, unit: Component["Unit"]) -> None: ...\n'
    for name in ("elsewhere.one", "elsewhere.two"):
        sys.modules[name] = module = ModuleType(name)
        exec(source, module.__dict__)
        inner = Component(module.__dict__["Unit"], {})
        assert component(module.__dict__["Part"], f"{name}.Part", unit=inner).settings["unit"] is inner


# ---- overrides


@pytest.mark.parametrize(
    ("override", "trunk"),
    [
        ("trunk.depth=3", Trunk(depth=3)),
        ("trunk={depth: 4}", Trunk(depth=4)),
        ("trunk.rate=1e-4", Trunk(rate=1e-4)),
        ("trunk.rate= 2", Trunk(rate=2)),
        ("trunk=", None),
    ],
)
def test_an_override_replaces_or_creates_on_the_way(override: str, trunk: Trunk | None) -> None:
    for text in ("{}", "trunk:", "trunk: {}"):
        assert parse(text, schema(trunk=(Trunk | None, None)), override).trunk == trunk


def test_later_overrides_win() -> None:
    assert parse("x: 1", schema(x=int), "x=2", "x=3").x == 3


def test_an_override_reaches_into_a_short_form() -> None:
    kind = schema(unit=Component[contract()])
    assert parse("unit: token", kind, "unit=span", "unit.length=5").unit == component(contract(), "span", length=5)
    assert parse("unit: span", kind, "unit.length=5").unit == component(contract(), "span", length=5)


def test_an_override_keeps_what_follows_the_first_equals_sign() -> None:
    assert parse("x: a", schema(x=str), "x=a=b").x == "a=b"


def test_an_override_changes_one_place_of_what_an_alias_shares() -> None:
    settings = parse("a: &x {depth: 3}\nb: *x\n", schema(a=Trunk, b=Trunk), "b.depth=4")
    assert (settings.a.depth, settings.b.depth) == (3, 4)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trunk.depht=3", "trunk.depht: expected a setting of Trunk (depth, rate), got 'depht'; did you mean 'depth'?"),
        ("trunk.depth=a", "trunk.depth: expected a whole number, got 'a'"),
        ("trunk.depth", "expected a.b.c=value"),
        ("=3", "expected a.b.c=value"),
        ("trunk..depth=3", "expected a.b.c=value"),
        ("trunk.depth=[3", "not valid YAML: while parsing a flow sequence"),
        ("trunk.depth=", "trunk.depth: expected a whole number, got nothing"),
        ("trunk.depth.x=3", "trunk.depth.x: there is no setting 'x' in 12 (recipe.yaml:2)"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_written(override: str, sentence: str) -> None:
    [line] = refused("trunk:\n  depth: 12\n", schema(trunk=Trunk), override)
    assert line.startswith(f"override {override}: {sentence}")


# ---- the YAML itself


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "recipe.yaml: expected a recipe, got an empty file"),
        ("# only words\n", "recipe.yaml: expected a recipe, got an empty file"),
        ("x: 1\ny: [1\n", "recipe.yaml:3: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("x: 1\n\ty: 2\n", "recipe.yaml:2: not valid YAML: while scanning for the next token, found character '\\t'"),
        ("x: 1\n---\nx: 2\n", "recipe.yaml:2: not valid YAML: expected a single document"),
        ("x: 1\ny: \a\n", "recipe.yaml:2: not valid YAML: special characters are not allowed"),
        ("x: *there\n", "recipe.yaml:1: not valid YAML: found undefined alias 'there'"),
        ("x: 1\nx: 1\n", "recipe.yaml:2: 'x' stands twice in one mapping, first on line 1"),
        ("x: !!python/name:os.system ''\n", "recipe.yaml:1: the tag 'tag:yaml.org,2002:python/name:os.system' has no"),
        ("x: {<<: {a: 1}, <<: {b: 1}}\n", "recipe.yaml:1: '<<' stands twice in one mapping, first on line 1"),
        ("x: !mine 3\n", "recipe.yaml:1: the tag '!mine' has no meaning in a recipe"),
        ("x: !mine [3]\n", "recipe.yaml:1: the tag '!mine' has no meaning in a recipe"),
        ("x: 1\n? [a]\n: 2\n", "recipe.yaml:2: expected a name before ':', got a list or a mapping"),
        ("x: &a [*a]\n", "recipe.yaml:1: an alias refers to the value that it stands in"),
        ("x: !!float a\n", "recipe.yaml:1: the tag 'tag:yaml.org,2002:float' has no meaning"),
        ("[1]\n", "recipe.yaml:1: expected a mapping, got a list"),
    ],
)
def test_text_that_is_no_recipe_is_refused_with_its_line(text: str, sentence: str) -> None:
    [line] = refused(text, schema(x=(Any, None)))
    assert line.startswith(sentence)


def test_a_problem_is_told_once() -> None:
    assert refused("x: 1", schema(x=int), "x", "x") == ["override x: expected a.b.c=value"]


def test_anchors_aliases_and_merges_work() -> None:
    text = "a: &x {depth: 3, rate: 0.5}\nb: *x\nc:\n  <<: *x\n  depth: 4\n"
    settings = parse(text, schema(a=Trunk, b=Trunk, c=Trunk))
    assert settings.a == settings.b == Trunk(depth=3, rate=0.5)
    assert settings.c == Trunk(depth=4, rate=0.5)


def test_a_file_is_read_and_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("x: 1\n", encoding="utf-8")
    assert load_settings(path, ["x=2"], schema(x=int)).x == 2
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}:1: x: expected text, got 1$"):
        load_settings(path, [], schema(x=str))


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no.yaml: can't be read: No such file or directory$"):
        load_settings(tmp_path / "no.yaml", [], schema(x=int))
    (tmp_path / "recipe.yaml").write_bytes(b"x: \xff\n")
    with pytest.raises(ConfigError, match=r"expected UTF-8 text, got byte 0xff$"):
        load_settings(tmp_path / "recipe.yaml", [], schema(x=int))
