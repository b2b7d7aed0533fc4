"""What a scalar annotation takes of the values that YAML gives, and its name for people."""

import math
from pathlib import Path
from types import NoneType
from typing import Any

SCALARS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    NoneType: "nothing",
}


def scalar(kind: Any, value: Any) -> Any:
    """The value as a scalar annotation takes it, or ValueError."""
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        number = float(value)  # text counts: `1e-4` is text in YAML 1.1
        if not math.isnan(number) and not (isinstance(value, str) and math.isinf(number)):
            return number
    elif kind is Path and isinstance(value, str | Path):
        return Path(value)
    elif type(value) is kind:
        return value
    raise ValueError(value)


def takes(kind: Any, value: Any) -> bool:
    """Whether `scalar` would give one."""
    try:
        scalar(kind, value)
    except (ValueError, OverflowError):
        return False
    return True
