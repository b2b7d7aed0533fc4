"""Imports go one way, and one file knows DeepSpeed."""

import ast
from pathlib import Path

import pytest

import mmpt

ROOT = Path(mmpt.__file__).parent
FORBIDDEN = {
    "tokens.py": ("mmpt.",),
    "trunk": ("mmpt.encoders", "mmpt.objectives", "mmpt.data", "mmpt.training", "mmpt.model", "mmpt.build", "mmpt.cli"),
    "pools": (
        "mmpt.encoders",
        "mmpt.objectives",
        "mmpt.data",
        "mmpt.downstream",
        "mmpt.finetune",
        "mmpt.training",
        "mmpt.model",
        "mmpt.build",
        "mmpt.cli",
    ),
    "encoders": ("mmpt.objectives", "mmpt.training", "mmpt.model", "mmpt.build", "mmpt.cli"),
    "objectives": ("mmpt.data", "mmpt.downstream", "mmpt.training", "mmpt.build", "mmpt.cli"),
    "data": ("mmpt.objectives", "mmpt.trunk", "mmpt.training", "mmpt.model", "mmpt.build", "mmpt.cli"),
    "foreign": ("mmpt.cli", "mmpt.training", "mmpt.downstream", "mmpt.finetune", "mmpt.export", "deepspeed"),
    "training": ("mmpt.cli", "mmpt.downstream", "mmpt.finetune"),
    "downstream": ("mmpt.cli", "mmpt.finetune", "deepspeed"),
    "finetune": ("mmpt.cli", "deepspeed"),
    "compress": ("mmpt.cli", "deepspeed"),
    "export": ("mmpt.cli", "mmpt.finetune", "deepspeed"),
    "evaluation": ("mmpt.cli", "mmpt.finetune", "deepspeed"),
    "report": ("mmpt.cli", "deepspeed"),
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def files(room):
    path = ROOT / room
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_what_lies_below_it(room):
    for path in files(room):
        wrong = [
            name for name in imports(path) if f"{name}.".startswith(tuple(f"{f.rstrip('.')}." for f in FORBIDDEN[room]))
        ]
        assert not wrong, f"{path}: {wrong}"


def test_one_file_knows_deepspeed():
    knows = [path for path in ROOT.rglob("*.py") if any(name.split(".")[0] == "deepspeed" for name in imports(path))]
    assert knows == [ROOT / "training" / "engine.py"]


def test_no_pickle_is_ever_read():
    for path in ROOT.rglob("*.py"):
        assert not {"pickle", "joblib", "dill"} & {name.split(".")[0] for name in imports(path)}, path
        text = path.read_text(encoding="utf-8")
        assert "torch.load(" not in text, path
        assert "allow_pickle=True" not in text, path


def test_test_files_have_names_of_their_own():
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names))  # pytest collects only one of two without caches
