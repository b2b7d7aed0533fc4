"""Records -> shards over processes: the same bytes for any number of them, and finished shards are not made again."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from mmpt.data.builders.progress import Progress
from mmpt.data.building import Building
from mmpt.data.encode import Member
from mmpt.data.shard import Counts, Part, ShardFile
from mmpt.data.split import Shares, split_of
from mmpt.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2  # tasks a process may have waiting: bounds memory


@runtime_checkable
class Record(Protocol):
    """An input of a builder; place names it for people (file, line), size is its weight in bytes."""

    @property
    def place(self) -> str: ...
    @property
    def size(self) -> int: ...


class Draft(NamedTuple):
    """One sample, encoded but without key and split; `notes` are sentences by their kind, see `Part`."""

    members: Mapping[str, Member]
    group: str
    tally: Mapping[str, Counts] = {}
    observed: Mapping[str, int] = {}
    notes: Mapping[str, str] = {}


class ShardTask(NamedTuple):
    """All that a process needs to make one shard."""

    building: Path
    number: int
    first: int  # number of the first record: keys are record numbers, so a rejected record shifts no other
    records: list[Any]
    make: Callable[[Any], Draft]
    shares: Shares


def build_shards(
    building: Building,
    records: Iterable[Record],
    make: Callable[[Any], Draft],
    *,
    limits: tuple[int, int],
    shares: Shares,
    processes: int,
    progress: Progress,
) -> list[Part]:
    """Make every shard that is not there yet.

    Args:
        building: the folder.
        records: the inputs, in an order that does not change between runs.
        make: record -> sample; raises DataError for a bad one, which is then left out and listed.
        limits: records and bytes of input a shard at most.
        shares: of the splits.
        processes: how many work; 1 works in this process.
        progress: told about every shard.

    Returns:
        One part a shard, in order.
    """
    parts: dict[int, Part] = {}

    def missing() -> Iterator[ShardTask]:
        first = 0
        for number, chunk in enumerate(_chunks(records, *limits)):
            if part := building.finished(number):
                parts[number] = part
                progress.advance(len(chunk), part.rejections)
            else:
                yield ShardTask(building.folder, number, first, chunk, make, shares)
            first += len(chunk)

    for number, part in run_tasks(build_shard, missing(), processes):
        parts[number] = part
        progress.advance(len(part.rows) + part.rejections, part.rejections)
    return [parts[number] for number in sorted(parts)]


def check_work(limits: tuple[int, int], processes: int) -> None:
    """Raises DataError for numbers that no work can be done with."""
    if min(limits) < 1:
        raise DataError(f"samples and bytes a shard must be at least 1, got {limits[0]} and {limits[1]}")
    if processes < 1:
        raise DataError(f"processes must be at least 1, got {processes}")


def build_shard(task: ShardTask) -> tuple[int, Part]:
    """Make and publish one shard; the work of one process."""
    with ShardFile(task.building, task.building / ".building", task.number) as shard:
        for number, record in enumerate(task.records, start=task.first):
            try:
                draft = task.make(record)
                split = split_of(draft.group, task.shares)
                shard.add(f"{number:09d}", draft.members, draft.group, split)
            except DataError as error:
                shard.part.reject(record.place, str(error))
                continue
            if split == "train":
                shard.part.add_tally(draft.tally)
            shard.part.note(draft.notes)
            for name, value in draft.observed.items():
                shard.part.observed.setdefault(name, []).append(value)
        return task.number, shard.publish()


def run_tasks(function: Callable[[T], R], tasks: Iterable[T], processes: int) -> Iterator[R]:
    """Results in the order of the tasks; tasks are drawn as they are needed.

    Raises:
        DataError: a process died, for want of memory for example.
    """
    check_work((1, 1), processes)
    tasks = iter(tasks)
    head = list(islice(tasks, 2))
    if processes == 1 or len(head) < 2:  # a single task is not worth starting processes
        yield from map(function, chain(head, tasks))
        return
    # spawn: forking after tokenizers or rich have started threads can hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin_worker)
    waiting: deque[Future[R]] = deque()
    try:
        for task in chain(head, tasks):
            waiting.append(pool.submit(function, task))
            if len(waiting) >= processes * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError("a worker process died (killed, or out of memory); the same command again goes on") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chunks(records: Iterable[Record], count: int, size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    total = 0
    for record in records:
        if chunk and (len(chunk) == count or total + record.size > size):
            yield chunk
            chunk, total = [], 0
        chunk.append(record)
        total += record.size
    if chunk:
        yield chunk


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and die with it: a pool's workers never notice that their parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
