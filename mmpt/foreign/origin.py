"""What was loaded of another model, for the record."""

from typing import Any, NamedTuple

from mmpt.foreign.donor import Donor


class Origin(NamedTuple):
    """Where weights came from, and which of them."""

    source: str
    kind: str
    step: int | None
    sha256: dict[str, str]  # of the files of weights
    loaded: tuple[str, ...]  # our names
    fresh: tuple[str, ...]  # ours that begin anew
    left: tuple[str, ...]  # theirs that have no place here
    notices: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


def origin_of(donor: Donor, prefix: str = "backbone.") -> Origin:
    """All of it, as `mmpt.load` takes it: of a model by itself nothing can be fresh."""
    loaded = tuple(name for name in donor.weights if name.startswith(prefix))
    left = (*donor.left, *(theirs for names in donor.heads.values() for theirs in names))
    return Origin(str(donor.where), donor.kind, donor.step, donor.sha256, loaded, (), left, donor.notices)
