"""What happened to samples and steps: append-only JSON lines, wound back to the step that a run resumes from."""

import json
import os
from pathlib import Path
from typing import Any


class Lines:
    """A file of JSON objects that each have a `step`.

    Args:
        path: the file; made when the first line comes.
        resume_step: lines of this step and later are of work that will be done again, and are removed.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) < resume_step]
            staged = path.with_name(f".{path.name}.staged")
            staged.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            staged.replace(path)

    def write(self, step: int, **values: Any) -> None:
        """Append one object."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}, ensure_ascii=False) + "\n")

    def sync(self) -> None:
        """Make sure that what was written survives the machine."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # cut off by a kill in mid-line


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of such a file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) < float("inf")]
