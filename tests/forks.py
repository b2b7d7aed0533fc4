"""Real processes without the start-up: each is forked from this one, which has imported what a run needs.

A line of JSON on stdin asks for one process a rank; the answer is the exit code, once all have ended.
"""

import importlib
import json
import os
import runpy
import signal
import sys

NEEDED = (
    "deepspeed",
    "torch.utils.tensorboard",
    *("mmpt.cli", "mmpt.finetune.recipe", "mmpt.report"),
    *("mmpt.training.command", "mmpt.training.engine", "mmpt.training.pretrain"),
)


def serve() -> tuple[dict, int]:
    """Returns in a forked process, with what to do there and its rank; at the end of stdin the server ends."""
    while line := sys.stdin.readline():
        work, ranks = json.loads(line), set()
        for rank in range(work["ranks"]):
            if not (process := os.fork()):
                return work, rank
            ranks.add(process)
        print(joined(ranks), flush=True)  # noqa: T201
    sys.exit()


def joined(ranks: set[int]) -> int:
    """The exit code of the first that fails, which ends the others as the launcher would; 0 if none does."""
    code = 0
    while ranks:
        process, status = os.wait()
        ranks.discard(process)
        if status and not code:
            code = os.waitstatus_to_exitcode(status)
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    return code


def become(work: dict, rank: int) -> None:
    """Folder, environment, arguments and output of a process of its own."""
    signal.alarm(work["seconds"])
    os.chdir(work["cwd"])
    os.environ.clear()
    os.environ.update(work["environment"])
    if work["ranks"] > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": work["port"]}
        sizes = {"WORLD_SIZE": str(work["ranks"]), "LOCAL_SIZE": str(work["ranks"])}
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), **address, **sizes)
    sys.argv = work["argv"]
    sys.path[0] = os.path.dirname(work["script"]) if work["script"] else work["cwd"]
    for number, path in enumerate((os.devnull, work["stdout"], work["stderr"])):
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)


if __name__ == "__main__":  # worker processes import this file too
    for name in NEEDED:
        importlib.import_module(name)
    work, rank = serve()
    become(work, rank)
    if work["script"]:
        runpy.run_path(work["script"], run_name="__main__")
    else:
        sys.exit(importlib.import_module("mmpt.cli").main())
