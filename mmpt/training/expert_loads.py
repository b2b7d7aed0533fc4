"""Which expert got how much, over the steps between two lines of the log: tables, a few figures, and warnings."""

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

LOADS, DROPPED, ENTROPY = "experts/load/", "experts/dropped/", "experts/entropy/"  # as a trunk counts them
LEAST, MOST = 0.01, 4.0  # of a fair share
PATIENCE = 3  # lines of the log
ADVICE = "raise training.balance_weight, or give the trunk fewer experts"

Sums = Mapping[str, tuple[float, float]]


class StreamLoads(NamedTuple):
    """One stream's tokens at the gate of one block."""

    chosen: Float[np.ndarray, " E"]  # choices
    dropped: float  # choices that found no place
    entropy: float  # of the gate in units of log E, summed over tokens
    tokens: float


class BlockLoads(NamedTuple):
    """One block's experts; a stream that did not come has no entry."""

    streams: dict[str, StreamLoads]

    @property
    def shares(self) -> Float[np.ndarray, " E"]:
        """What each got of all streams; 1 is a fair share."""
        return fair(np.sum([own.chosen for own in self.streams.values()], axis=0))

    @property
    def most(self) -> float:
        """Above it an expert is overloaded: half-way from a fair share to all tokens, and never more than `MOST`.

        With E experts and k a token, all tokens are E / k fair shares: a limit that knew neither could not be reached
        by few experts.
        """
        chosen = sum(own.chosen.sum() for own in self.streams.values())
        k = chosen / sum(own.tokens for own in self.streams.values())
        return float(min(MOST, (1 + len(self.shares) / k) / 2))


Blocks = dict[int, BlockLoads]  # by number, from 1


class ExpertLoadWarning(UserWarning):
    """Experts get uneven loads."""


class DeadExpertWarning(ExpertLoadWarning):
    """An expert gets next to nothing of any stream."""


class FullExpertWarning(ExpertLoadWarning):
    """An expert gets far more than its share."""


def apart(sums: Sums) -> tuple[dict[str, tuple[float, float]], Blocks]:
    """All other figures as they are, and what was counted of the experts of every block."""
    others = {name: own for name, own in sums.items() if not name.startswith((LOADS, DROPPED, ENTROPY))}
    loads: dict[tuple[int, str], dict[int, float]] = {}
    for name, (count, _) in sums.items():
        if name.startswith(LOADS):
            block, expert, stream = name.removeprefix(LOADS).split("/", 2)
            loads.setdefault((int(block), stream), {})[int(expert)] = count
    blocks: Blocks = {}
    for (block, stream), own in loads.items():
        chosen = np.array([own[expert] for expert in range(len(own))])
        if chosen.sum() > 0:
            (dropped, _), of_gate = sums[f"{DROPPED}{block}/{stream}"], sums[f"{ENTROPY}{block}/{stream}"]
            blocks.setdefault(block, BlockLoads({})).streams[stream] = StreamLoads(chosen, dropped, *of_gate)
    return others, blocks


def figures_of(blocks: Blocks) -> dict[str, float]:
    """A few for curves; of loads 1 is a fair share, and the worst block counts.

    `experts/dropped`, a share of choices, and `experts/entropy`, of the gate; `experts/load_max` and `load_min`. With
    several streams the first three of each as `experts/<stream>/...`, and `experts/stream_information`, the mutual
    information of expert and stream in units of the stream's entropy, a mean over blocks: 0 if experts don't tell
    streams apart, 1 if each is of one.
    """
    if not blocks:
        return {}
    every = [block.shares for block in blocks.values()]
    figures = _gate("experts", [own for block in blocks.values() for own in block.streams.values()])
    figures["experts/load_max"] = max(float(loads.max()) for loads in every)
    figures["experts/load_min"] = min(float(loads.min()) for loads in every)
    names = dict.fromkeys(name for block in blocks.values() for name in block.streams)
    if len(names) > 1:
        for name in names:
            own = [block.streams[name] for block in blocks.values() if name in block.streams]
            figures |= _gate(f"experts/{name}", own)
            figures[f"experts/{name}/load_max"] = max(float(fair(stream.chosen).max()) for stream in own)
        figures["experts/stream_information"] = float(np.mean([_information(block) for block in blocks.values()]))
    return figures


def _gate(prefix: str, streams: list[StreamLoads]) -> dict[str, float]:
    chosen, dropped, entropy, tokens = (sum(np.sum(column) for column in own) for own in zip(*streams, strict=True))
    return {f"{prefix}/dropped": float(dropped / chosen), f"{prefix}/entropy": float(entropy / tokens)}


def plain(blocks: Blocks) -> dict[str, Any]:
    """For metrics.jsonl, by block and stream: loads in units of the stream's fair share, drop share, gate's entropy."""
    return {
        str(number): {
            name: {
                "tokens": int(own.tokens),
                "load": [round(float(load), 4) for load in fair(own.chosen)],
                "dropped": round(own.dropped / float(own.chosen.sum()), 4),
                "entropy": round(own.entropy / own.tokens, 4),
            }
            for name, own in block.streams.items()
        }
        for number, block in blocks.items()
    }


def told(blocks: Blocks) -> str:
    """For a line on the terminal: the fullest and the emptiest expert by name."""
    every = [(load, _name(n, expert)) for n, block in blocks.items() for expert, load in enumerate(block.shares)]
    (most, fullest), (least, emptiest) = max(every), min(every)
    own = figures_of(blocks)
    gate = f"experts: dropped {own['experts/dropped']:.2f}  entropy {own['experts/entropy']:.2f}"
    return f"{gate}  most {most:.2f} ({fullest})  least {least:.2f} ({emptiest})"


def fair(loads: Float[np.ndarray, " E"]) -> Float[np.ndarray, " E"]:
    """In units of what each had if all got as much."""
    return loads / loads.mean()


def _name(block: int, expert: int) -> str:
    return f"block {block}, expert {expert}"


def _information(block: BlockLoads) -> float:
    joint = np.stack([own.chosen for own in block.streams.values()])
    joint = joint / joint.sum()
    of_stream, of_expert, of_both = (_entropy(part) for part in (joint.sum(1), joint.sum(0), joint.ravel()))
    return (of_stream + of_expert - of_both) / of_stream


def _entropy(shares: Float[np.ndarray, " _"]) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


class LoadWatch:
    """Speaks of an expert once a run, and not of a passing state.

    Args:
        in_a_row, spoke: lines in a row by what is the matter, and what it spoke of, as a checkpoint has them.
    """

    def __init__(self, in_a_row: Mapping[str, int] | None = None, spoke: Iterable[str] = ()) -> None:
        self.in_a_row, self.spoke = dict(in_a_row or {}), set(spoke)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"in_a_row": self.in_a_row, "spoke": sorted(self.spoke)}

    def look(self, blocks: Blocks) -> list[str]:
        """The sentences to show; a DeadExpertWarning or a FullExpertWarning goes along with each."""
        dead, full = [], []
        for number, block in blocks.items():
            for expert, share in enumerate(block.shares):
                name = _name(number, expert)
                if self._lasts(f"{name} dead", so=bool(share < LEAST)):
                    dead.append(name)
                if self._lasts(f"{name} full", so=bool(share > block.most)):
                    full.append(f"{name} gets {share:.2f} fair shares of the choices {_most_of(block, expert)}")
        said = []
        if dead:
            such = f"less than {LEAST:g} of a fair share over {PATIENCE} lines of the log"
            said.append(f"{'; '.join(dead)}: no stream uses {'them' if len(dead) > 1 else 'it'} ({such}); {ADVICE}")
            warnings.warn(said[-1], DeadExpertWarning, stacklevel=2)
        if full:
            said.append(f"{'; '.join(full)}, over {PATIENCE} lines of the log; {ADVICE}")
            warnings.warn(said[-1], FullExpertWarning, stacklevel=2)
        return said

    def _lasts(self, what: str, *, so: bool) -> bool:
        """Whether it is so for the first time in as many lines as it takes."""
        if not so:
            self.in_a_row.pop(what, None)
            return False
        self.in_a_row[what] = self.in_a_row.get(what, 0) + 1
        if self.in_a_row[what] < PATIENCE or what in self.spoke:
            return False
        self.spoke.add(what)
        return True


def _most_of(block: BlockLoads, expert: int) -> str:
    own = {name: stream.chosen[expert] for name, stream in block.streams.items()}
    stream = max(own, key=lambda name: own[name])
    share = own[stream] / sum(own.values())
    return f"(limit {block.most:.2f} among {len(block.shares)}), {share:.0%} of them of {stream}"
