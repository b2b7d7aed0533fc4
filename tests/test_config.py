"""Recipes: what is read, what is refused, and with which sentence."""

import pickle
import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from mmpt.config import Component, component, load_settings, to_plain
from mmpt.errors import ConfigError
from tests.unit_shop import Trunk, contract, opened, parse, refused, same_after_printing, schema


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from opened(tmp_path, monkeypatch)


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
