"""Figures of a run or a fit, for later: lines of JSON and TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmpt.training.ledger import Lines
from mmpt.training.run import environment

NO_EXPERTS: Mapping[str, Any] = MappingProxyType({})


class Record:
    """metrics.jsonl, TensorBoard events and environment.json; of rank 0 only."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import; only a run needs it

        self.lines = Lines(run / "metrics.jsonl", step)
        self.events = SummaryWriter(str(run), purge_step=step + 1 if step else None)
        (run / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n", encoding="utf-8")

    def write(
        self, step: int, done: int, source: str, values: dict[str, float], experts: Mapping[str, Any] = NO_EXPERTS
    ) -> None:
        """Figures after `done` steps; what the experts got, if there are any, goes to metrics.jsonl alone."""
        self._write(step, done, {"source": source, **({"experts": experts} if experts else {})}, values)

    def note(self, step: int, done: int, values: dict[str, float]) -> None:
        """Figures that are of no source's step."""
        self._write(step, done, {}, values)

    def _write(self, step: int, done: int, more: dict[str, Any], values: dict[str, float]) -> None:
        self.lines.write(step, done=done, **more, **values)
        for name, value in values.items():
            self.events.add_scalar(name, value, done)

    def close(self) -> None:
        """Flush."""
        self.lines.sync()
        self.events.close()
