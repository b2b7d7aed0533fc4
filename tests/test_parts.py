"""Parts of a recipe: how they are found, chosen and checked."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

from mmpt.config import Component, component, dump_yaml, find_parts, to_plain
from mmpt.errors import ConfigError
from tests.unit_shop import Trunk, contract, opened, parse, refused, same_after_printing, schema


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from opened(tmp_path, monkeypatch)


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
