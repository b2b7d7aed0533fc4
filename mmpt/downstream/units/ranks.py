"""Under a launcher the processes share the work: each computes its chunks, and all get every chunk, in one order."""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed import broadcast, destroy_process_group, init_process_group, is_initialized

from mmpt.data.writer import ShardWriter
from mmpt.errors import DataError, MmptError


class Ranks(NamedTuple):
    """This process among those that the launcher started."""

    rank: int = 0
    ranks: int = 1

    def agree(self, problem: str = "") -> None:
        """Wait for rank 0, whose problem all raise as a DataError, so that none waits for another in vain."""
        if self.ranks > 1:
            problem = self._text(problem, 0)
        if problem:
            raise DataError(problem)

    def chunk_of(
        self, owner: int, found: "Sequence[Float[np.ndarray, '_ P']] | DataError | None", samples: int
    ) -> list[Float[np.ndarray, "_ P"]]:
        """Frames of some samples as `owner` found them; raises DataError everywhere where it found something wrong."""
        wrong = self._text(str(found) if isinstance(found, DataError) else "", owner)
        if wrong:
            raise DataError(wrong)
        mine = found if owner == self.rank and isinstance(found, Sequence) else None
        shapes = torch.zeros(samples, 2, dtype=torch.int64)
        if mine is not None:
            shapes = torch.tensor([own.shape for own in mine])
        _handed_out(shapes, owner)
        frames = torch.zeros(int(shapes[:, 0].sum()), int(shapes[0, 1]))
        if mine is not None:
            frames = torch.from_numpy(np.concatenate(mine, dtype=np.float32))
        _handed_out(frames, owner)
        return [own.numpy() for own in frames.split(shapes[:, 0].tolist())]

    def _text(self, text: str, owner: int) -> str:
        length = torch.tensor(len(text.encode()))
        _handed_out(length, owner)
        if not length:
            return ""
        words = torch.zeros(int(length), dtype=torch.uint8)
        if owner == self.rank:
            words = torch.tensor(list(text.encode()), dtype=torch.uint8)
        _handed_out(words, owner)
        return bytes(words.tolist()).decode()


def _handed_out(tensor: Tensor, owner: int) -> None:
    try:
        broadcast(tensor, owner)
    except RuntimeError as error:
        raise MmptError("another rank stopped; what it said stands above, and the same command begins anew") from error


def join() -> Ranks:
    """The other ranks over gloo, or being alone; a process joins once and leaves at its end."""
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and not is_initialized():
        init_process_group("gloo")
        atexit.register(destroy_process_group)
    if ranks > 1 and torch.accelerator.is_available():
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")) % torch.accelerator.device_count())
    return Ranks(rank, ranks)


def refuse_ranks(what: str, instead: str) -> None:
    """Of a command that starts processes itself, or that is of one; raises MmptError under a launcher."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MmptError(f"{what}: expected one process, got {os.environ['WORLD_SIZE']} of a launcher; {instead}")


@contextmanager
def written_once(ranks: Ranks, writer: ShardWriter) -> Iterator[ShardWriter | None]:
    """The opened writer on rank 0, None on the others; what it refuses to begin with, no rank begins with."""
    with ExitStack() as opened:
        problem = ""
        if ranks.rank == 0:
            try:
                opened.enter_context(writer)
            except DataError as error:
                problem = str(error)
        ranks.agree(problem)
        yield writer if ranks.rank == 0 else None
    ranks.agree()  # rank 0 has published what the others may read
