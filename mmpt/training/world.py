"""This process among the others of a run: which it is, its share of the machine, and how all of them agree."""

import os
from typing import NamedTuple

import torch


class World(NamedTuple):
    """This process among the others."""

    rank: int
    ranks: int
    device: torch.device


def place() -> tuple[int, int]:
    """This process's rank and how many there are, as the launcher says; known before they have met."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def share_cores(workers: int) -> None:
    """Threads that outnumber cores wait for each other: many times slower than fewer threads."""
    if "OMP_NUM_THREADS" not in os.environ:
        mine = torch.get_num_threads() // int(os.environ.get("LOCAL_SIZE", "1"))
        torch.set_num_threads(max(1, mine - min(workers, 1)))


def agree(world: World, problem: str) -> str:
    """Rank 0's problem (or none), known to all ranks, so that they stop together."""
    message = [problem]
    torch.distributed.broadcast_object_list(message, src=0, device=world.device)
    return message[0]
