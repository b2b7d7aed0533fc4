"""One sampling rate a sound field: the commonest; what has another is left out by name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mmpt.data.schema import Field
from mmpt.data.shard import Part


def settle_rates(parts: Sequence[Part], fields: Mapping[str, Field]) -> dict[str, Field]:
    """Fields with `sample_rate` among their facts; rows note their own rate as `<field>.rate`."""
    settled = dict(fields)
    for name, own in fields.items():
        column = f"{name}.rate"
        rates = Counter(row[column] for part in parts for row in part.rows if column in row)
        if own.kind != "audio" or not rates:
            continue
        common = max(rates, key=lambda rate: (rates[rate], rate))
        settled[name] = replace(own, facts={**own.facts, "sample_rate": common})
        for part in parts:
            _leave_out(part, column, common)
    return settled


def _leave_out(part: Part, column: str, common: int) -> None:
    kept = []
    for row in part.rows:
        if row.get(column, common) == common:
            kept.append(row)
            continue
        place = f"{part.shard.name if part.shard else ''}: {row['key']}"
        part.reject(place, f"sampled at {row[column]} Hz, most others at {common} Hz; resample it, or index it apart")
    if part.shard and len(kept) < len(part.rows):
        part.shard = replace(part.shard, samples=len(kept)) if kept else None
    part.rows = kept
