"""The declared schema of a data set: which fields a sample may have, and how each is decoded.

Nothing but these decoders is ever applied to a member, so no pickle can be reached from a tar.
"""

from dataclasses import dataclass, field
from typing import Any

from mmpt.errors import DataError

KINDS = {
    "text": ("txt",),
    "image": ("png", "jpg", "jpeg", "webp"),
    "json": ("json", "cls"),
    "audio": ("flac", "wav", "ogg", "mp3"),
    "array": ("npy",),
    "video": ("mjpeg", "apng", "gif"),
}
REFUSED = ("pkl", "pickle", "pyd", "pth", "pt", "ckpt", "joblib", "dill", "ten")


@dataclass(frozen=True)
class Field:
    """One field of a sample.

    Args:
        name: the field's name; a modality reads the field of its name.
        kind: one of KINDS; says which decoder is used.
        members: the endings of its tar members, without the leading dot, for example `("png",)`.
        facts: what a model has to know, for example tokenizer folder and vocabulary size, or the sampling rate in Hz.
    """

    name: str
    kind: str
    members: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


def declare(name: str, members: str | tuple[str, ...], **facts: Any) -> Field:
    """A field from its members' ending(s); raises DataError for an ending that no decoder is declared for."""
    endings = (members,) if isinstance(members, str) else tuple(members)
    kinds = {kind_of(name, ending) for ending in endings}
    if len(kinds) != 1:
        raise DataError(
            f"field '{name}': endings {', '.join(endings)} are of different kinds ({', '.join(sorted(kinds))})"
        )
    return Field(name, kinds.pop(), endings, facts)


def kind_of(name: str, ending: str) -> str:
    """The kind that a member's ending is decoded as."""
    last = ending.rsplit(".", 1)[-1].lower()
    if last in REFUSED:
        raise DataError(
            f"field '{name}': .{last} members hold pickled objects, which can run code; mmpt never reads them"
        )
    for kind, endings in KINDS.items():
        if last in endings:
            return kind
    known = ", ".join(e for endings in KINDS.values() for e in endings)
    raise DataError(f"field '{name}': no decoder is declared for .{last}; use one of {known}")
