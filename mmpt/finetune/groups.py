"""Whether the same people are in training and in what judges it."""

from itertools import combinations

from mmpt.errors import DataError
from mmpt.finetune.examples import Examples, ShardExamples


def check_groups(examples: dict[str, Examples], *, allowed: bool) -> list[str]:
    """Samples of one patient in two purposes make scores too good: raises DataError, or tells of it where it's allowed.

    Group names are compared wherever they may be of the same patients: between data sets that have a shard's contents
    in common, wherever they lie and however they are divided, and where one side is no data set. Other data sets may
    each call somebody '1', so that a name which both have is told of and not refused.

    Args:
        examples: by purpose.
        allowed: only tell of them.
    """
    refused, told = [], []
    for (one, first), (other, second) in combinations(examples.items(), 2):
        kin = _kin(first, second)
        shared = sorted(_groups(first, kin) & _groups(second, kin))
        if not shared:
            continue
        found = f"{len(shared)} groups are in {one} and in {other}"
        if not kin:
            told.append(
                f"{found} by name ('{shared[0]}' for one): if these data sets are of the same people, scores are too "
                "good"
            )
        elif allowed:
            told.append(f"{found}: scores are too good")
        else:
            refused.append(f"{found} ('{shared[0]}' for one)")
    if refused:
        raise DataError(
            f"{', '.join(refused)}, so that scores would be of what was seen in training or chosen by; split by "
            "group, or say allow_shared_groups"
        )
    return told


def _kin(first: Examples, second: Examples) -> bool:
    """Whether a group of one name is one group."""
    if not isinstance(first, ShardExamples) or not isinstance(second, ShardExamples):
        return True
    contents = [{shard.sha256 for shard in own.manifest.shards} for own in (first, second)]
    return not contents[0].isdisjoint(contents[1])


def _groups(own: Examples, kin: bool) -> set[str]:
    """Without those of samples that are alone and named by their number, which says nothing elsewhere."""
    if not isinstance(own, ShardExamples):
        return {group for number, group in enumerate(own.groups) if group != own.place(number)}
    return {group for group, name in zip(own.groups, own.names, strict=True) if kin or group != name}
