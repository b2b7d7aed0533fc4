"""How far an epoch is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def epoch_bar(console: Console | None, name: str, batches: int, done: int) -> Iterator[Callable[[int], None]]:
    """Gives what is told how many batches are done: on a terminal a line that is gone behind the epoch, else nothing.

    Args:
        console: None is quiet.
        name: of the epoch.
        batches: of the epoch.
        done: of these, to begin with.
    """
    if console is None or not console.is_terminal:
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.description}  batch {task.completed}/{task.total}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # what libraries print is the log's, and not for above the line
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        line = bar.add_task(name, total=batches, completed=done)
        yield lambda done: bar.update(line, completed=done)
