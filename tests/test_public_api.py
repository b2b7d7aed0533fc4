"""`import mmpt`: quick, quiet, and every public name where it should be."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mmpt

HEAVY = ("torch", "numpy", "deepspeed", "transformers", "sklearn", "rich", "PIL", "pyarrow")


def run_python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_mmpt_imports_nothing_heavy_and_is_quick():
    program = f"""
import sys, time
start = time.perf_counter()
import mmpt
seconds = time.perf_counter() - start
print(seconds, [name for name in {HEAVY} if name in sys.modules])
"""
    seconds, loaded = min(run_python(program).split(" ", 1) for _ in range(3))
    assert loaded == "[]"
    assert float(seconds) < 0.3


def test_a_run_starts_without_what_few_runs_need():
    program = """
import sys
import mmpt.downstream.embed, mmpt.training.engine, mmpt.training.pretrain
print([name for name in ("timm", "torchvision", "sklearn", "scipy", "pandas", "matplotlib") if name in sys.modules])
"""
    assert run_python(program) == "[]"


def test_importing_mmpt_touches_neither_environment_nor_logging_nor_random_state():
    program = """
import logging, os, random, warnings
before = dict(os.environ), list(logging.root.handlers), random.getstate(), list(warnings.filters)
import mmpt
assert before == (dict(os.environ), list(logging.root.handlers), random.getstate(), list(warnings.filters))
"""
    assert run_python(program) == ""


@pytest.mark.parametrize("name", mmpt.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(mmpt, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    assert name in dir(mmpt)


def test_type_checkers_see_the_names_where_they_are_imported_from():
    tree = ast.parse(Path(mmpt.__file__).read_text(encoding="utf-8"))
    seen = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mmpt")
        for alias in node.names
    }
    lazy = {(module, name) for module, names in mmpt._HOMES.items() for name in names}
    assert seen == lazy
    assert {name for _, name in lazy} == set(mmpt.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mmpt' has no attribute 'laod'"):
        mmpt.laod  # noqa: B018
