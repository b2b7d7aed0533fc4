"""What stops a run, or skips a step of it."""

import signal
import threading
from collections.abc import Iterable
from types import FrameType, TracebackType

from mmpt.errors import DataError, MmptError
from mmpt.settings import DataSettings

ENOUGH_TO_JUDGE = 10  # unreadable samples before their share says anything


class NonFiniteError(MmptError):
    """Too many updates in a row had a loss or gradient that is not finite."""


class Interruption:
    """SIGTERM and SIGINT set a flag that the loop reads between steps; a second SIGINT stops at once.

    Only a process's main thread hears of signals: in any other, nothing is ever asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        is_main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGINT) if is_main else ():
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


class BadSamples:
    """Counts unreadable samples; stops the run past the stated share of all ranks', or after many in a row of one's."""

    def __init__(self, settings: DataSettings, *, seen: int = 0, bad: int = 0, in_a_row: int = 0) -> None:
        self.settings = settings
        self.seen, self.bad, self.in_a_row = seen, bad, in_a_row

    def look(self, readable: Iterable[bool]) -> bool:
        """This rank's samples of a step, in order; returns whether too many in a row could not be read."""
        too_many = False
        for good in readable:
            self.in_a_row = 0 if good else self.in_a_row + 1
            too_many |= self.in_a_row >= self.settings.max_bad_in_a_row
        return too_many

    def count(self, seen: int, bad: int, *, too_many_in_a_row: bool, last: str) -> None:
        """A step's samples over all ranks; raises DataError past the limits. `last` is the newest reason."""
        self.seen += seen
        self.bad += bad
        if too_many_in_a_row:
            most = self.settings.max_bad_in_a_row
            raise DataError(f"{most} samples in a row could not be read, so the run stops; the last one: {last}")
        if self.bad >= ENOUGH_TO_JUDGE and self.bad > self.settings.max_bad_share * self.seen:
            raise DataError(
                f"{self.bad} of {self.seen} samples could not be read, more than data.max_bad_share="
                f"{self.settings.max_bad_share:g} allows, so the run stops; the last one: {last}; all are in the ledger"
            )


class NonFinite:
    """Counts skipped updates and stops the run after too many in a row."""

    def __init__(self, most: int, *, in_a_row: int = 0, total: int = 0) -> None:
        self.most, self.in_a_row, self.total = most, in_a_row, total

    def count(self, step: int, finite: bool) -> None:
        """Raises NonFiniteError after `most` in a row."""
        self.in_a_row = 0 if finite else self.in_a_row + 1
        self.total += not finite
        if self.in_a_row >= self.most:
            raise NonFiniteError(
                f"step {step}: the loss or a gradient was not finite {self.in_a_row} times in a row, so the run stops; "
                "the last checkpoint is intact and the samples are in the run's ledger: lower "
                "training.optimizer.learning_rate, or mend them"
            )
