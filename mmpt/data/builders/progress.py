"""How far a build is: a live line on a terminal, plain lines elsewhere, always on stderr."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SECONDS = 5.0  # between plain lines


class Progress:
    """A context manager that counts.

    Args:
        what: the work, for example `shards`.
        total: how many are expected, None if unknown.
        shown: False keeps quiet.
    """

    def __init__(self, what: str, total: int | None = None, *, shown: bool = True) -> None:
        self.done, self.rejected = 0, 0
        self._what, self._total, self._shown = what, total, shown
        self._began = self._spoke = time.monotonic()
        self._bar: Bar | None = None
        if shown and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = bar.add_task(what, total=total)
            self._bar = bar

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        if kind is None and self._shown:
            self._say()

    def advance(self, count: int = 1, rejected: int = 0) -> None:
        """So many more are done, of which some were left out."""
        self.done += count
        self.rejected += rejected
        if self._bar:
            self._bar.update(self._task, advance=count)
        elif self._shown and time.monotonic() - self._spoke > SECONDS:
            self._spoke = time.monotonic()
            self._say()

    def _say(self) -> None:
        of = f" of {self._total}" if self._total else ""
        left_out = f", {self.rejected} left out" if self.rejected else ""
        rate = self.done / max(time.monotonic() - self._began, 1e-9)
        sys.stderr.write(f"{self._what}: {self.done}{of}{left_out}, {rate:.0f} a second\n")
        sys.stderr.flush()
