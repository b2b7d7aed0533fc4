"""Pairs torn apart: the same key in two tars, with other members in each."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from mmpt.data.shard import Part

SHOWN = 20


def find_halves(parts: Sequence[Part], fields: Iterable[str]) -> dict[str, Any]:
    """How many keys stand in several tars with nothing in common, and the first of them as sentences.

    They stay samples of their own, for keys may be unique in a tar only; a joint sample never forms across tars.
    """
    seen: dict[str, list[tuple[str, frozenset[str]]]] = defaultdict(list)
    for part in parts:
        for row in part.rows:
            if part.shard:
                own = frozenset(name for name in fields if f"{name}.offset" in row)
                seen[row["key"]].append((part.shard.name, own))
    torn = [(key, places) for key, places in seen.items() if _disjoint([own for _, own in places])]
    return {"count": len(torn), "first": [_sentence(key, places) for key, places in torn[:SHOWN]]} if torn else {}


def _disjoint(sets: list[frozenset[str]]) -> bool:
    return len(sets) > 1 and sum(map(len, sets)) == len(frozenset().union(*sets))


def _sentence(key: str, places: list[tuple[str, frozenset[str]]]) -> str:
    where = " and ".join(f"{', '.join(sorted(own))} in {shard}" for shard, own in places)
    return f"sample {key}: {where}; a pair has to lie in one tar, these stay samples of their own"
