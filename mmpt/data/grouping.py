"""Members of a tar -> samples, by WebDataset's convention and with every breach of it noticed."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from mmpt.data.schema import KINDS, REFUSED, Field
from mmpt.data.tarscan import TarMember

NAME = re.compile(r"^(?P<key>(?:.*/)?[^./]+)\.(?P<ending>[^/]*)$", re.DOTALL)
PLAIN = re.compile(r"^[A-Za-z0-9_-]+$")
APART = "members of this key are apart in the tar, so its samples are halves; write the tar in order of keys"
TWICE = "the key was used before in this tar; the first sample of the key is kept"

Refuse = Callable[[str, str], None]


class Sample(NamedTuple):
    """Members of one key, by field."""

    key: str
    members: dict[str, TarMember]


def split_name(name: str) -> tuple[str, str]:
    """Key and ending: cut at the file name's first dot, folders belong to the key; both empty without a dot."""
    found = NAME.match(name.removeprefix("./"))
    return (found["key"], found["ending"].lower()) if found else ("", "")


def endings_of(members: Iterable[TarMember]) -> set[str]:
    """Endings without a dot inside: with one, a dot in the name and an ending of two parts look the same."""
    return {ending for _, ending in (split_name(member.name) for member in members) if PLAIN.match(ending)}


def group_members(members: Sequence[TarMember], fields: Mapping[str, Field], refuse: Refuse) -> list[Sample]:
    """Samples in the order of the tar.

    Args:
        members: in the order of the tar.
        fields: the declared ones; a member of no field is refused.
        refuse: told member or key, and why.
    """
    owners = {ending.lower(): name for name, own in fields.items() for ending in own.members}
    samples: dict[str, Sample | None] = {}  # None: refused for good
    for key, run in groupby(members, key=lambda member: split_name(member.name)[0]):
        found = _by_field(run, owners, refuse)
        earlier = samples.get(key)
        if not found:
            continue
        if key not in samples:
            samples[key] = Sample(key, found)
        elif earlier and earlier.members.keys() & found.keys():
            refuse(key, TWICE)
        else:
            refuse(key, APART)
            samples[key] = None
    return [sample for sample in samples.values() if sample]


def _by_field(members: Iterable[TarMember], owners: Mapping[str, str], refuse: Refuse) -> dict[str, TarMember]:
    found: dict[str, TarMember] = {}
    for member in members:
        ending = split_name(member.name)[1]
        name = owners.get(ending)
        if name is None:
            refuse(member.name, _why_unknown(ending, owners))
        elif name in found:
            refuse(member.name, f"a second member for field '{name}' in this sample; the first is kept")
        else:
            found[name] = member
    return found


def _why_unknown(ending: str, owners: Mapping[str, str]) -> str:
    last = ending.rsplit(".", 1)[-1]
    if not ending:
        return "the name has no ending to tell the field by"
    if last in REFUSED:
        return f".{last} members hold pickled objects, which can run code; mmpt never reads them"
    if not PLAIN.match(ending):
        return (
            f"a dot in the name makes the ending '.{ending}', which is not declared; rename the member, "
            f"or declare a field for '{ending}'"
        )
    if any(ending in endings for endings in KINDS.values()):
        return f"no field is declared for .{ending}; there are {', '.join(f'.{own}' for own in owners)}"
    return f"no decoder for .{ending} members"
